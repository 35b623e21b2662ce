//! The home of a record: the partition that the producers' default partitioner assigns to its key.

/// The home partition of a record key: `murmur2(key) & 0x7fffffff mod partitions`, as the Java client and librdkafka's
/// `murmur2_random` compute it for a key that is not null.
#[must_use]
pub fn home_partition(key: &[u8], partitions: std::num::NonZeroU32) -> i32 {
    // The sign bit is masked, so the remainder is below 2^31 and fits.
    ((murmur2(key) & 0x7fff_ffff) % partitions.get()).cast_signed()
}

/// Kafka's variant of MurmurHash2, 32 bits (`org.apache.kafka.common.utils.Utils.murmur2`). A fixed seed and
/// thirty lines: not worth a dependency.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let (words, rest) = data.as_chunks::<4>();
    // Java's length is a signed 32-bit integer; a Kafka key is never longer than that.
    let mut hash = SEED ^ data.len() as u32;
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own test (`UtilsTest.testMurmur2`).
    #[test]
    fn hashes_as_the_java_client_does() {
        for (key, expected) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), expected, "{key}");
        }
    }

    #[test]
    fn a_home_is_always_a_partition() {
        for partitions in 1..=50 {
            let partitions = std::num::NonZeroU32::new(partitions).expect("from one");
            for key in 0..1_000_u32 {
                let home = home_partition(&key.to_le_bytes(), partitions);
                assert!((0..partitions.get().cast_signed()).contains(&home));
            }
        }
    }
}
