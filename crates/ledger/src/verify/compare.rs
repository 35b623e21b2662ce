//! Classifies how a sequence was altered from its first difference on: removed, added, swapped or changed. Pure.

/// Alteration of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Missing,
    Inserted,
    Reordered,
    Changed,
}

/// Compares the `found` elements with the expected ones, starting at their first difference. A few elements of each
/// suffice.
pub(super) fn classify<T: PartialEq>(found: &[T], expected: &[T]) -> Change {
    let [first, after_found @ ..] = found else {
        return Change::Missing;
    };
    let [wanted, after_wanted @ ..] = expected else {
        return Change::Inserted;
    };
    let wanted_next = after_found.first() == Some(wanted);
    let first_next = after_wanted.first() == Some(first);
    match (wanted_next, first_next) {
        (true, true) => Change::Reordered,
        (true, false) => Change::Inserted,
        (false, true) => Change::Missing,
        (false, false) => Change::Changed,
    }
}

/// Position of an entry in its chain: its number, its predecessor's hash, and its own hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub seq: u64,
    /// The hash that it carries, in hex.
    pub prev: String,
    /// Its own hash, in hex.
    pub hash: String,
}

/// Place of an alteration in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    /// The entry that does not follow.
    Here,
    /// The entry before it, although it follows its own predecessor.
    Before,
}

/// Classifies the alteration of a chain at the first entry that does not follow: `before` are the last two entries that
/// did (newest last), `after` is that entry and the two behind it.
pub(super) fn diagnose(before: [Option<&Link>; 2], after: &[&Link]) -> (Change, Where) {
    let [older, last] = before;
    let Some(here) = after.first() else {
        return (Change::Missing, Where::Here);
    };
    let next = after.get(1);
    let expected = last.map_or(0, |last| last.seq.wrapping_add(1));
    let follows = |one: &Link, other: &Link| other.prev == one.hash;
    let goes_on = next.is_some_and(|next| follows(here, next));
    // The entry follows the one before the last: the last one does not belong between them.
    if let (Some(older), Some(last)) = (older, last)
        && follows(older, here)
        && here.seq == last.seq
    {
        return (Change::Inserted, Where::Before);
    }
    if here.seq == expected {
        // The place is right, but the past differs. The entries after it tell which of the two was changed.
        return if goes_on && last.is_some() {
            (Change::Changed, Where::Before)
        } else {
            (Change::Changed, Where::Here)
        };
    }
    match next {
        Some(next) if next.seq == expected && here.seq == expected.wrapping_add(1) => {
            (Change::Reordered, Where::Here)
        }
        Some(next) if next.seq == expected => (Change::Inserted, Where::Here),
        _ if here.seq > expected => (Change::Missing, Where::Here),
        _ => (Change::Inserted, Where::Here),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_has_its_name() {
        let expected = [3, 4, 5];
        assert_eq!(classify(&[4, 5, 6], &expected), Change::Missing);
        assert_eq!(classify(&[], &expected), Change::Missing);
        assert_eq!(classify(&[9, 3, 4], &expected), Change::Inserted);
        assert_eq!(classify(&[9], &[]), Change::Inserted);
        assert_eq!(classify(&[4, 3, 5], &expected), Change::Reordered);
        assert_eq!(classify(&[9, 4, 5], &expected), Change::Changed);
        assert_eq!(classify(&[9], &[3]), Change::Changed);
    }

    /// A chain of ten links whose hashes are their numbers.
    fn chain() -> Vec<Link> {
        let link = |seq: u64| Link {
            seq,
            prev: if seq == 0 {
                "none".to_owned()
            } else {
                (seq - 1).to_string()
            },
            hash: seq.to_string(),
        };
        (0..10).map(link).collect()
    }

    /// Walks a chain to where it breaks, as a verification does.
    fn walk(chain: &[Link]) -> Option<(usize, Change)> {
        let follows = |index: usize| match index {
            0 => chain[0].seq == 0 && chain[0].prev == "none",
            _ => chain[index].seq == chain[index - 1].seq + 1 && chain[index].prev == chain[index - 1].hash,
        };
        let broken = (0..chain.len()).find(|index| !follows(*index))?;
        let back = |steps: usize| broken.checked_sub(steps).map(|index| &chain[index]);
        let after: Vec<&Link> = chain[broken..].iter().take(3).collect();
        let (change, place) = diagnose([back(2), back(1)], &after);
        Some((
            if place == Where::Before {
                broken - 1
            } else {
                broken
            },
            change,
        ))
    }

    #[test]
    fn a_chain_tells_what_was_done_to_it() {
        let good = chain();
        assert_eq!(walk(&good), None);
        for at in 1..8 {
            let mut missing = good.clone();
            missing.remove(at);
            assert_eq!(walk(&missing), Some((at, Change::Missing)), "{at}");
            let mut changed = good.clone();
            changed[at].hash = "another".to_owned();
            assert_eq!(walk(&changed), Some((at, Change::Changed)), "{at}");
            let mut repointed = good.clone();
            repointed[at].prev = "another".to_owned();
            repointed[at].hash = "another's".to_owned();
            assert_eq!(walk(&repointed), Some((at, Change::Changed)), "{at}");
            let mut reordered = good.clone();
            reordered.swap(at, at + 1);
            assert_eq!(walk(&reordered), Some((at, Change::Reordered)), "{at}");
            // One link that fits its predecessor, and one that fits nowhere.
            let mut fitting = good.clone();
            fitting.insert(
                at,
                Link {
                    hash: "forged".to_owned(),
                    ..good[at].clone()
                },
            );
            assert_eq!(walk(&fitting), Some((at, Change::Inserted)), "{at}");
            let mut strange = good.clone();
            let stranger = Link {
                seq: 77,
                prev: "?".to_owned(),
                hash: "!".to_owned(),
            };
            strange.insert(at, stranger);
            assert_eq!(walk(&strange), Some((at, Change::Inserted)), "{at}");
        }
    }
}
