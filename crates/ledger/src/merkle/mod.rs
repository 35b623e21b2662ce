//! The Merkle tree hash of RFC 6962 §2.1, fed leaf by leaf: `SHA-256(0x00 ‖ leaf)`, `SHA-256(0x01 ‖ left ‖ right)`.
//!
//! Only a stack of the complete subtrees is kept, so a batch of any size needs no list of its leaves. [`proof`] proves
//! that a leaf is in a tree, and that one tree is the beginning of another.

pub mod proof;

use sha2::{Digest, Sha256};

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// Hash of one leaf, given in parts that are hashed in sequence.
#[must_use]
pub fn leaf(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new_with_prefix([0x00]);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Leaf hash of one raw record: `offset (u64, big endian) ‖ outcome name ‖ SHA-256(value)`.
///
/// The name needs no length prefix, since the other parts have fixed lengths.
#[must_use]
pub fn record_leaf(offset: u64, outcome: &str, value_digest: &Hash) -> Hash {
    leaf(&[&offset.to_be_bytes(), outcome.as_bytes(), value_digest])
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new_with_prefix([0x01])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// A Merkle tree that grows at its right end. It does not allocate: 64 levels suffice for every `u64` count of leaves.
#[derive(Clone)]
pub struct MerkleRoot {
    leaves: u64,
    /// Index `i` holds the root of a complete subtree of 2^i leaves if bit i of `leaves` is set.
    subtrees: [Hash; 64],
}

impl Default for MerkleRoot {
    fn default() -> Self {
        Self::new()
    }
}

impl MerkleRoot {
    /// The empty tree.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            leaves: 0,
            subtrees: [[0; 32]; 64],
        }
    }

    /// Number of leaves.
    #[must_use]
    pub const fn leaves(&self) -> u64 {
        self.leaves
    }

    /// Roots of the complete subtrees, largest first. Together with [`MerkleRoot::leaves`] they suffice to resume the
    /// tree elsewhere.
    #[must_use]
    pub fn frontier(&self) -> Vec<Hash> {
        let levels = (0..64_usize).rev().filter(|level| self.leaves >> level & 1 == 1);
        levels.map(|level| self.subtrees[level]).collect()
    }

    /// Resumes a tree from its [`MerkleRoot::frontier`]; `None` if the number of hashes does not match `leaves`. The
    /// hashes are not checked: the caller compares [`MerkleRoot::root`].
    #[must_use]
    pub fn resume(leaves: u64, frontier: &[Hash]) -> Option<Self> {
        if leaves.count_ones() as usize != frontier.len() {
            return None;
        }
        let mut tree = Self::new();
        tree.leaves = leaves;
        let levels = (0..64_usize).rev().filter(|level| leaves >> level & 1 == 1);
        for (level, hash) in levels.zip(frontier) {
            tree.subtrees[level] = *hash;
        }
        Some(tree)
    }

    /// Resets the tree to the empty one.
    pub const fn clear(&mut self) {
        self.leaves = 0;
    }

    /// Appends the hash of the next leaf (from [`leaf`] or [`record_leaf`]).
    pub fn push(&mut self, leaf_hash: Hash) {
        let mut hash = leaf_hash;
        let level = self.leaves.trailing_ones() as usize;
        for subtree in &self.subtrees[..level] {
            hash = node(subtree, &hash);
        }
        self.subtrees[level] = hash;
        self.leaves += 1;
    }

    /// Root over all leaves so far; `SHA-256("")` if there are none.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut root: Option<Hash> = None;
        for (level, subtree) in self.subtrees.iter().enumerate() {
            if self.leaves >> level & 1 == 1 {
                // The part to the right is smaller; it joins the larger subtree to its left.
                root = Some(root.map_or(*subtree, |right| node(subtree, &right)));
            }
        }
        root.unwrap_or_else(|| Sha256::digest([]).into())
    }
}

/// Concatenates the hashes of a frontier, the form in which they are stored.
#[must_use]
pub fn stored_frontier(tree: &MerkleRoot) -> Vec<u8> {
    tree.frontier().concat()
}

/// Rebuilds a tree from its stored form; `None` if size and frontier do not match.
#[must_use]
pub fn tree_of(size: u64, frontier: &[u8]) -> Option<MerkleRoot> {
    let (hashes, rest) = frontier.as_chunks::<32>();
    let hashes: &[Hash] = hashes;
    rest.is_empty()
        .then(|| MerkleRoot::resume(size, hashes))
        .flatten()
}

impl std::fmt::Debug for MerkleRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MerkleRoot({} leaves)", self.leaves)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(hash: Hash) -> String {
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Inputs and roots of certificate-transparency-go's `merkle` reference tests (also transparency-dev/merkle).
    #[test]
    fn reference_roots_are_reproduced() {
        let inputs: [&[u8]; 8] = [
            &[],
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[
                0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e,
                0x6f,
            ],
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = MerkleRoot::new();
        assert_eq!(
            hex(tree.root()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        for (input, root) in inputs.into_iter().zip(roots) {
            tree.push(leaf(&[input]));
            assert_eq!(hex(tree.root()), root);
        }
        tree.clear();
        assert_eq!(
            hex(tree.root()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    /// The definition of RFC 6962 §2.1, taken literally.
    fn definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                node(&definition(&leaves[..split]), &definition(&leaves[split..]))
            }
        }
    }

    proptest! {
        #[test]
        fn the_streamed_root_equals_the_definition(values in proptest::collection::vec(any::<u64>(), 0..300)) {
            let leaves: Vec<Hash> = values.iter().map(|value| leaf(&[&value.to_be_bytes()])).collect();
            let mut tree = MerkleRoot::new();
            leaves.iter().for_each(|leaf| tree.push(*leaf));
            prop_assert_eq!(tree.root(), definition(&leaves));
            prop_assert_eq!(tree.leaves(), leaves.len() as u64);
        }

        #[test]
        fn a_tree_resumes_from_its_frontier(before in 0_u64..200, after in 0_u64..100) {
            let grow = |tree: &mut MerkleRoot, from: u64, to: u64| {
                (from..to).for_each(|number| tree.push(leaf(&[&number.to_be_bytes()])));
            };
            let mut whole = MerkleRoot::new();
            grow(&mut whole, 0, before);
            let frontier = whole.frontier();
            let mut resumed = MerkleRoot::resume(before, &frontier).expect("the frontier matches the size");
            prop_assert!(MerkleRoot::resume(before + 1, &frontier).is_none() || before.count_ones() == (before + 1).count_ones());
            grow(&mut whole, before, before + after);
            grow(&mut resumed, before, before + after);
            prop_assert_eq!((resumed.leaves(), resumed.root()), (whole.leaves(), whole.root()));
        }
    }
}
