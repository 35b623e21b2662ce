//! Merkle tree hash of RFC 6962 §2.1 over the ledger's leaves.

use sha2::{Digest, Sha256};

use crate::outcome::Outcome;

type Hash = [u8; 32];

/// Root over leaf hashes, computed as the RFC defines it: split at the largest power of two below the count.
pub(super) fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            let mut hash = Sha256::new();
            hash.update([0x01]);
            hash.update(root(left));
            hash.update(root(right));
            hash.finalize().into()
        }
    }
}

/// Hash of the leaf `offset u64 BE ‖ outcome name ‖ SHA-256(value)`.
pub(super) fn leaf(offset: i64, outcome: Outcome, value_digest: &Hash) -> Hash {
    let mut hash = Sha256::new();
    hash.update([0x00]);
    hash.update(offset.cast_unsigned().to_be_bytes());
    hash.update(outcome.as_str());
    hash.update(value_digest);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(hash: Hash) -> String {
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The inputs and roots of certificate-transparency-go's reference tests.
    #[test]
    fn agrees_with_certificate_transparency() {
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
        let leaves: Vec<Hash> = inputs
            .iter()
            .map(|input| {
                Sha256::new()
                    .chain_update([0])
                    .chain_update(input)
                    .finalize()
                    .into()
            })
            .collect();
        let roots = [
            (
                0,
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                1,
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            ),
            (
                2,
                "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            ),
            (
                3,
                "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            ),
            (
                8,
                "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
            ),
        ];
        for (count, expected) in roots {
            assert_eq!(hex(root(&leaves[..count])), expected, "{count} leaves");
        }
    }
}
