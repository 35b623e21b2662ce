//! How long a cached subject key is used, as a function of its age and its use.

use std::time::Duration;

use super::keys::ROTATE_SEALS;

/// The two ages of a cached subject key, counted from when the vault last confirmed it as current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Age from which it is fetched again before use.
    pub fresh: Duration,
    /// Age from which it is not used at all. It bounds how long a shredded subject can still be sealed for.
    pub stale: Duration,
}

impl Lifetime {
    /// Whether a key of this age, which has sealed `seals` times, may be used without asking the vault.
    ///
    /// A key that is no longer fresh, or that is due for rotation, may be used only while the vault cannot be asked: the
    /// alternative is to hold the records of every subject.
    #[must_use]
    pub fn permits(&self, age: Duration, seals: u64, vault_is_down: bool) -> bool {
        let is_fresh = age < self.fresh && seals < ROTATE_SEALS;
        is_fresh || (vault_is_down && age < self.stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Lifetime = Lifetime {
        fresh: Duration::from_secs(1_800),
        stale: Duration::from_secs(3_600),
    };

    #[test]
    fn a_key_is_used_while_fresh_and_longer_while_the_vault_is_down() {
        let table = [
            (0, 0, true, true),
            (1_799, 0, true, true),
            (1_800, 0, false, true),
            (3_599, 0, false, true),
            (3_600, 0, false, false),
            (1_000_000, 0, false, false),
            (0, ROTATE_SEALS - 1, true, true),
            (0, ROTATE_SEALS, false, true),
            (3_599, ROTATE_SEALS, false, true),
            (3_600, ROTATE_SEALS, false, false),
        ];
        for (age_s, seals, up, down) in table {
            let age = Duration::from_secs(age_s);
            assert_eq!(
                LIFETIME.permits(age, seals, false),
                up,
                "up: {age_s} s, {seals} seals"
            );
            assert_eq!(
                LIFETIME.permits(age, seals, true),
                down,
                "down: {age_s} s, {seals} seals"
            );
        }
    }
}
