//! Proofs over Merkle trees (RFC 9162 §2.1.3 and §2.1.4; the trees are those of RFC 6962): that a leaf is in a tree,
//! and that a tree is the beginning of a larger one.
//!
//! A proof is a list of subtree roots. Sizes alone determine which subtrees ([`inclusion_ranges`],
//! [`consistency_ranges`]), so one pass over the leaves makes any proof ([`RangeRoots`]) and no tree is kept.

use std::ops::Range;

use super::{Hash, MerkleRoot, node};

/// Largest power of two below `leaves`, which must be more than one: the point at which RFC 6962 splits a tree.
const fn split(leaves: u64) -> u64 {
    1 << (u64::BITS - 1 - (leaves - 1).leading_zeros())
}

/// The ranges of leaves whose roots prove that the leaf `index` is in a tree of `size` leaves (RFC 9162 §2.1.3.1), in
/// the order of the proof. Empty if there is no such leaf.
#[must_use]
pub fn inclusion_ranges(index: u64, size: u64) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    if index >= size {
        return ranges;
    }
    let mut tree = 0..size;
    while tree.end - tree.start > 1 {
        let middle = tree.start + split(tree.end - tree.start);
        if index < middle {
            ranges.push(middle..tree.end);
            tree.end = middle;
        } else {
            ranges.push(tree.start..middle);
            tree.start = middle;
        }
    }
    ranges.reverse();
    ranges
}

/// The ranges of leaves whose roots prove that the tree of the first `old` leaves is the beginning of the one of `new`
/// (RFC 9162 §2.1.4.1), in the order of the proof. Empty if the sizes are equal, or `old` is 0 or larger than `new`.
#[must_use]
pub fn consistency_ranges(old: u64, new: u64) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    if old == 0 || old >= new {
        return ranges;
    }
    let mut tree = 0..new;
    // The verifier knows the old root itself.
    let mut known = true;
    while tree.end != old {
        let middle = tree.start + split(tree.end - tree.start);
        if old <= middle {
            ranges.push(middle..tree.end);
            tree.end = middle;
        } else {
            ranges.push(tree.start..middle);
            tree.start = middle;
            known = false;
        }
    }
    if !known {
        ranges.push(tree);
    }
    ranges.reverse();
    ranges
}

/// Computes the roots of ranges in one pass over the leaves of a tree, in order.
#[derive(Debug)]
pub struct RangeRoots {
    ranges: Vec<(Range<u64>, MerkleRoot)>,
    next: u64,
}

impl RangeRoots {
    /// Starts before the first leaf. The ranges must not overlap; those of one proof do not.
    #[must_use]
    pub fn new(ranges: Vec<Range<u64>>) -> Self {
        let ranges = ranges
            .into_iter()
            .map(|range| (range, MerkleRoot::new()))
            .collect();
        Self { ranges, next: 0 }
    }

    /// Adds the hash of the next leaf.
    pub fn push(&mut self, leaf_hash: Hash) {
        let next = self.next;
        if let Some((_, root)) = self.ranges.iter_mut().find(|(range, _)| range.contains(&next)) {
            root.push(leaf_hash);
        }
        self.next += 1;
    }

    /// The roots in the order of the ranges; `None` if leaves of a range are missing.
    #[must_use]
    pub fn finish(self) -> Option<Vec<Hash>> {
        let complete = |(range, root): &(Range<u64>, MerkleRoot)| root.leaves() == range.end - range.start;
        let finished = self.ranges.iter().all(complete);
        finished.then(|| self.ranges.iter().map(|(_, root)| root.root()).collect())
    }
}

/// Whether `proof` shows that a tree of `size` leaves and with this `root` has `leaf_hash` at `index` (RFC 9162
/// §2.1.3.2).
#[must_use]
pub fn verify_inclusion(leaf_hash: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let mut path = Path {
        node: index,
        last: size - 1,
    };
    let mut hash = *leaf_hash;
    for sibling in proof {
        match path.step() {
            Some(Side::Left) => hash = node(sibling, &hash),
            Some(Side::Right) => hash = node(&hash, sibling),
            None => return false,
        }
    }
    path.last == 0 && hash == *root
}

/// Whether `proof` shows that the tree of `old` leaves with `old_root` is the beginning of the one of `new` leaves with
/// `new_root` (RFC 9162 §2.1.4.2). An empty tree is the beginning of every tree.
#[must_use]
pub fn verify_consistency(old: u64, new: u64, old_root: &Hash, new_root: &Hash, proof: &[Hash]) -> bool {
    if old == 0 {
        return proof.is_empty() && *old_root == MerkleRoot::new().root();
    }
    if old >= new {
        return old == new && proof.is_empty() && old_root == new_root;
    }
    // If the old tree is a complete subtree, the proof omits its root: it is the old root.
    let (first, rest) = match proof.split_first() {
        _ if old.is_power_of_two() => (old_root, proof),
        Some((first, rest)) => (first, rest),
        None => return false,
    };
    if rest.is_empty() {
        return false;
    }
    let mut path = Path {
        node: old - 1,
        last: new - 1,
    };
    let shift = path.node.trailing_ones();
    path.node >>= shift;
    path.last >>= shift;
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in rest {
        match path.step() {
            Some(Side::Left) => {
                old_hash = node(sibling, &old_hash);
                new_hash = node(sibling, &new_hash);
            }
            Some(Side::Right) => new_hash = node(&new_hash, sibling),
            None => return false,
        }
    }
    path.last == 0 && old_hash == *old_root && new_hash == *new_root
}

/// Side on which a node has its sibling.
enum Side {
    Left,
    Right,
}

/// Path from a node to the root: the node's number in its level, and that of the level's last node.
struct Path {
    node: u64,
    last: u64,
}

impl Path {
    /// Goes up to the next node that has a sibling; `None` at the root.
    fn step(&mut self) -> Option<Side> {
        if self.last == 0 {
            return None;
        }
        let left = self.node & 1 == 1 || self.node == self.last;
        if left && self.node & 1 == 0 {
            // The last node of a level has no right sibling: it moves up unchanged until it is a right child.
            let shift = self.node.trailing_zeros().min(u64::BITS - 1);
            self.node >>= shift;
            self.last >>= shift;
        }
        self.node >>= 1;
        self.last >>= 1;
        Some(if left { Side::Left } else { Side::Right })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::leaf;
    use super::*;

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|number| leaf(&[&number.to_be_bytes()])).collect()
    }

    fn root(leaves: &[Hash]) -> Hash {
        let mut tree = MerkleRoot::new();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree.root()
    }

    fn prove(ranges: Vec<Range<u64>>, leaves: &[Hash]) -> Vec<Hash> {
        let mut roots = RangeRoots::new(ranges);
        leaves.iter().for_each(|leaf| roots.push(*leaf));
        roots.finish().expect("every leaf was pushed")
    }

    proptest! {
        /// `ct-merkle`, an implementation of RFC 6962 that shares no code with this one, makes the same roots and proofs.
        #[test]
        fn another_implementation_makes_the_same_trees(new in 1_u64..200, seed: u64) {
            let values: Vec<[u8; 8]> = (0..new).map(|number| (number ^ seed).to_be_bytes()).collect();
            let leaves: Vec<Hash> = values.iter().map(|value| leaf(&[value])).collect();
            let mut tree = ct_merkle::mem_backed_tree::MemoryBackedTree::<sha2::Sha256, [u8; 8]>::new();
            values.iter().for_each(|value| tree.push(*value));
            let (index, old) = (seed % new, seed % new + 1);
            prop_assert_eq!(root(&leaves).to_vec(), tree.root().as_bytes().to_vec());
            let inclusion = prove(inclusion_ranges(index, new), &leaves);
            prop_assert_eq!(inclusion.concat(), tree.prove_inclusion(index as usize).as_bytes().to_vec());
            if old < new {
                let consistency = prove(consistency_ranges(old, new), &leaves);
                let theirs = tree.prove_consistency((new - old) as usize);
                prop_assert_eq!(consistency.concat(), theirs.as_bytes());
            }
        }
    }

    /// Inputs and proofs of certificate-transparency's `merkle_verifier` reference tests, also used by the libraries of
    /// transparency-dev.
    #[test]
    fn reference_proofs_are_reproduced() {
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let leaves: Vec<Hash> = inputs.iter().map(|input| leaf(&[input])).collect();
        let inclusion: [(u64, u64, &[&str]); 4] = [
            (
                0,
                8,
                &[
                    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
                ],
            ),
            (
                5,
                8,
                &[
                    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
                ],
            ),
            (
                2,
                3,
                &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
            ),
            (
                1,
                5,
                &[
                    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                ],
            ),
        ];
        for (index, size, expected) in inclusion {
            let tree = &leaves[..size as usize];
            let proof = prove(inclusion_ranges(index, size), tree);
            let shown: Vec<String> = proof.iter().map(hex::encode).collect();
            assert_eq!(shown, expected, "leaf {index} of {size}");
            assert!(verify_inclusion(
                &tree[index as usize],
                index,
                size,
                &proof,
                &root(tree)
            ));
        }
        let consistency: [(u64, u64, &[&str]); 4] = [
            (1, 1, &[]),
            (
                1,
                8,
                &[
                    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
                ],
            ),
            (
                6,
                8,
                &[
                    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
                ],
            ),
            (
                2,
                5,
                &[
                    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                ],
            ),
        ];
        for (old, new, expected) in consistency {
            let proof = prove(consistency_ranges(old, new), &leaves[..new as usize]);
            let shown: Vec<String> = proof.iter().map(hex::encode).collect();
            assert_eq!(shown, expected, "{old} to {new}");
            let (old_root, new_root) = (root(&leaves[..old as usize]), root(&leaves[..new as usize]));
            assert!(verify_consistency(old, new, &old_root, &new_root, &proof));
        }
    }

    #[test]
    fn every_leaf_and_every_size_of_small_trees_is_proved() {
        let all = leaves(40);
        for size in 0..=40_u64 {
            let tree = &all[..size as usize];
            let new_root = root(tree);
            for index in 0..size {
                let proof = prove(inclusion_ranges(index, size), tree);
                assert!(verify_inclusion(
                    &all[index as usize],
                    index,
                    size,
                    &proof,
                    &new_root
                ));
            }
            assert!(inclusion_ranges(size, size).is_empty());
            for old in 0..=size {
                let proof = prove(consistency_ranges(old, size), tree);
                let old_root = root(&all[..old as usize]);
                assert!(
                    verify_consistency(old, size, &old_root, &new_root, &proof),
                    "{old} to {size}"
                );
            }
        }
    }

    #[test]
    fn sizes_at_the_limit_of_u64_do_not_overflow() {
        let hash = [7; 32];
        for proof in [vec![], vec![hash; 64], vec![hash; 200]] {
            assert!(!verify_inclusion(&hash, u64::MAX - 1, u64::MAX, &proof, &hash));
            assert!(!verify_inclusion(&hash, 0, u64::MAX, &proof, &hash));
            assert!(!verify_consistency(1 << 63, u64::MAX, &hash, &[8; 32], &proof));
            assert!(!verify_consistency(
                u64::MAX - 1,
                u64::MAX,
                &hash,
                &[8; 32],
                &proof
            ));
        }
        assert_eq!(inclusion_ranges(0, u64::MAX).len(), 64);
        assert!(consistency_ranges(u64::MAX - 1, u64::MAX).len() <= 64);
    }

    proptest! {
        #[test]
        fn a_proof_of_another_leaf_or_tree_is_refused(size in 2_u64..70, index in 0_u64..70, old in 1_u64..70, at in 0_usize..8, bit in 0_u8..8) {
            let (index, old) = (index % size, 1 + old % (size - 1));
            let all = leaves(size);
            let (new_root, old_root) = (root(&all), root(&all[..old as usize]));
            let inclusion = prove(inclusion_ranges(index, size), &all);
            let other = (index + 1) % size;
            prop_assert!(!verify_inclusion(&all[other as usize], index, size, &inclusion, &new_root));
            prop_assert!(!verify_inclusion(&all[index as usize], other, size, &inclusion, &new_root));
            for forged in forgeries(&inclusion, at, bit) {
                prop_assert!(!verify_inclusion(&all[index as usize], index, size, &forged, &new_root));
            }
            let consistency = prove(consistency_ranges(old, size), &all);
            prop_assert!(!verify_consistency(old, size, &new_root, &old_root, &consistency));
            for forged in forgeries(&consistency, at, bit) {
                prop_assert!(!verify_consistency(old, size, &old_root, &new_root, &forged));
            }
        }
    }

    /// A proof with another bit, with one hash less, and with one more.
    fn forgeries(proof: &[Hash], at: usize, bit: u8) -> [Vec<Hash>; 3] {
        let mut flipped = proof.to_vec();
        flipped[at % proof.len()][0] ^= 1 << bit;
        let short = proof[..proof.len() - 1].to_vec();
        let long = [proof, &[[0; 32]]].concat();
        [flipped, short, long]
    }
}
