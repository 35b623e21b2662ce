//! Proof verifiers never panic, accept every true proof, and reject a true proof of something else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pulsegate_ledger::merkle::proof::{
    RangeRoots, consistency_ranges, inclusion_ranges, verify_consistency, verify_inclusion,
};
use pulsegate_ledger::merkle::{Hash, MerkleRoot, leaf};

fn root(leaves: &[Hash]) -> Hash {
    let mut tree = MerkleRoot::new();
    leaves.iter().for_each(|leaf| tree.push(*leaf));
    tree.root()
}

fuzz_target!(|data: &[u8]| {
    let Some((numbers, rest)) = data.split_first_chunk::<16>() else {
        return;
    };
    let number = |from: usize| {
        numbers[from..from + 8]
            .iter()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let (one, other) = (number(0), number(8));
    // Arbitrary input, with sizes up to the limit of u64.
    let (hashes, _) = rest.as_chunks::<32>();
    let hash = hashes.first().copied().unwrap_or([0; 32]);
    let _ = verify_inclusion(&hash, one, other, hashes, &hash);
    let _ = verify_consistency(one, other, &hash, &[1; 32], hashes);
    let _ = (inclusion_ranges(one, other), consistency_ranges(one, other));

    // True proofs of a tree of up to 256 leaves.
    let leaves: Vec<Hash> = rest
        .iter()
        .take(256)
        .enumerate()
        .map(|(at, byte)| leaf(&[&at.to_be_bytes(), &[*byte]]))
        .collect();
    let size = leaves.len() as u64;
    if size == 0 {
        return;
    }
    let prove = |ranges| {
        let mut roots = RangeRoots::new(ranges);
        leaves.iter().for_each(|leaf| roots.push(*leaf));
        roots.finish().expect("every leaf was added")
    };
    let (index, old) = (one % size, 1 + other % size);
    let new_root = root(&leaves);
    let proof = prove(inclusion_ranges(index, size));
    let at = |index: u64| &leaves[usize::try_from(index).expect("few leaves")];
    assert!(verify_inclusion(at(index), index, size, &proof, &new_root));
    let elsewhere = other % size;
    assert!(elsewhere == index || !verify_inclusion(at(index), elsewhere, size, &proof, &new_root));
    let old_root = root(&leaves[..usize::try_from(old).expect("few leaves")]);
    let proof = prove(consistency_ranges(old, size));
    assert!(verify_consistency(old, size, &old_root, &new_root, &proof));
    assert!(old == size || !verify_consistency(old, size, &new_root, &old_root, &proof));
});
