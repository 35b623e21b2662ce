//! Encodes readings for the database's binary COPY.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use crate::io::postgres::copy::{Rows, timestamp};
use pulsegate_detect::reading::Reading;

/// Columns in the order in which [`push`] writes them.
const COPY: &str = "COPY readings (time, value, origin_offset, claimed_time, origin_partition, origin_index, quality, \
                    device, metric, unit, firmware, model) FROM STDIN (FORMAT binary)";
const COLUMNS: usize = 12;

/// Bytes sent at once: the next part is encoded while the server stores this one.
const SEND_BYTES: usize = 256 * 1024;

/// How far a device's clock may be ahead of the broker's before it is disbelieved, in milliseconds: a day covers any
/// time zone.
const AHEAD_MAX_MS: i64 = 24 * 3_600 * 1_000;

/// Returns the time at which to store a reading measured at `time_ms`, according to the device, and received by the
/// broker at `append_ms`: the claimed time, unless it is `keep_ms` or more before the broker's or a day or more after
/// it.
///
/// This bounds the number of chunks whatever devices claim, and keeps readings of a device whose clock was never set
/// from being dropped at once for their age.
pub(super) const fn place(time_ms: i64, append_ms: i64, keep_ms: i64) -> i64 {
    if time_ms > append_ms.saturating_sub(keep_ms) && time_ms < append_ms.saturating_add(AHEAD_MAX_MS) {
        time_ms
    } else {
        append_ms
    }
}

/// Copies the readings, and returns their minutes (since 1970).
pub(super) async fn copy(
    connection: &mut PgConnection,
    readings: &[Reading],
    keep_ms: i64,
) -> Result<BTreeSet<i64>, sqlx::Error> {
    let mut minutes = BTreeSet::new();
    let mut newest = None;
    let mut rows = Rows::new(COLUMNS as i16);
    let mut copy = connection.copy_in_raw(COPY).await?;
    for reading in readings {
        let time_ms = place(reading.time_ms, reading.append_ms, keep_ms);
        push(&mut rows, reading, time_ms);
        let minute = time_ms.div_euclid(60_000);
        // Most readings fall into the same minute as the previous one.
        if newest != Some(minute) {
            newest = Some(minute);
            minutes.insert(minute);
        }
        if rows.pending().len() >= SEND_BYTES {
            copy.send(rows.pending()).await?;
            rows.sent();
        }
    }
    rows.end();
    copy.send(rows.pending()).await?;
    copy.finish().await?;
    Ok(minutes)
}

fn push(rows: &mut Rows, reading: &Reading, time_ms: i64) {
    let claimed = (time_ms != reading.time_ms).then(|| timestamp(reading.time_ms));
    let values: [Option<&[u8]>; COLUMNS] = [
        Some(&timestamp(time_ms)),
        Some(&reading.value.to_be_bytes()),
        Some(&reading.offset.to_be_bytes()),
        claimed.as_ref().map(<[u8; 8]>::as_slice),
        Some(&reading.partition.to_be_bytes()),
        // A record has at most a million readings.
        Some(&reading.index.to_be_bytes()),
        Some(&reading.quality.to_be_bytes()),
        Some(reading.device.bytes()),
        Some(reading.metric.name.as_str().as_bytes()),
        Some(reading.metric.unit.as_str().as_bytes()),
        Some(reading.version.firmware.as_str().as_bytes()),
        Some(reading.version.model.as_str().as_bytes()),
    ];
    rows.push(values);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pulsegate_detect::time::DAY_MS;

    use super::*;

    const NOW_MS: i64 = 1_790_000_000_000;

    #[test]
    fn an_impossible_time_is_replaced_by_the_brokers() {
        let keep = 90 * DAY_MS;
        let cases = [
            ("late by a week", NOW_MS - 7 * DAY_MS, NOW_MS - 7 * DAY_MS),
            ("ahead by an hour", NOW_MS + DAY_MS / 24, NOW_MS + DAY_MS / 24),
            ("1970", 0, NOW_MS),
            ("2100", 4_102_444_800_000, NOW_MS),
            ("as old as retention", NOW_MS - keep, NOW_MS),
        ];
        for (name, claimed, placed) in cases {
            assert_eq!(place(claimed, NOW_MS, keep), placed, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_claimed_time_creates_chunks_beyond_retention(claimed in any::<i64>(), keep in 1..3_650 * DAY_MS) {
            let placed = place(claimed, NOW_MS, keep);
            prop_assert!(placed > NOW_MS - keep && placed < NOW_MS + DAY_MS);
            prop_assert!(placed == claimed || placed == NOW_MS);
        }
    }
}
