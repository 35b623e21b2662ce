//! A lane's state as bytes, so that it can resume after a restart without reading the whole log again.
//!
//! Numbers are little endian. Devices and series are stored in the order of their tables, because the order decides
//! what is evicted next.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::device::Device;
use super::{Lane, Rules, Series};
use crate::alert;
use crate::anomaly::{self, Detector};
use crate::quality::{Episode, Run};
use crate::reading::Token;
use crate::series::{Table, Window};

/// The version of this layout and of how a lane uses the stored state.
const LAYOUT: &str = "lane-4";

/// The bytes are damaged or are not a snapshot of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read the snapshot: the detectors must be rebuilt from the log")]
pub struct BadSnapshot;

impl Rules {
    /// Identifies the models and all configuration that determines what they find: a snapshot with another name cannot
    /// be used.
    #[must_use]
    pub fn model(&self) -> String {
        let mut hasher = Sha256::new();
        // Serializing these plain structs to JSON cannot fail.
        let config = serde_json::to_vec(&(&self.lane, &self.quality, &self.alert)).unwrap_or_default();
        hasher.update(config);
        for described in self.metrics.iter() {
            hasher.update(format!("{described:?}"));
        }
        let digest = hex::encode(&hasher.finalize()[..6]);
        format!("{LAYOUT}/{}/{digest}", anomaly::MODEL)
    }
}

impl Lane {
    /// The state as bytes: the same bytes after the same records.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(64 + self.devices.len() as usize * 64 + self.series.len() as usize * 512);
        write_table(&self.devices, &mut out, |token, device, out| {
            out.extend_from_slice(token.bytes());
            write_device(device, out);
        });
        write_table(&self.series, &mut out, |(token, metric), series, out| {
            out.extend_from_slice(token.bytes());
            out.extend_from_slice(&metric.to_le_bytes());
            write_series(series, out);
        });
        out
    }

    /// Restores the lane from [`Lane::snapshot`]. `rules` must be the rules of the snapshot: compare [`Rules::model`]
    /// first.
    ///
    /// # Errors
    ///
    /// [`BadSnapshot`] if the bytes are damaged or have another layout.
    pub fn restore(partition: i32, rules: Arc<Rules>, bytes: &[u8]) -> Result<Self, BadSnapshot> {
        let mut lane = Self::new(partition, rules);
        let mut from = Bytes(bytes);
        let read = read_table(&mut lane.devices, &mut from, |from| {
            Some((token(from)?, device(from)?))
        })
        .and_then(|()| {
            read_table(&mut lane.series, &mut from, |from| {
                Some(((token(from)?, u16::from_le_bytes(from.take()?)), series(from)?))
            })
        });
        read.filter(|()| from.0.is_empty()).ok_or(BadSnapshot)?;
        Ok(lane)
    }
}

fn write_table<K: Copy + Eq + std::hash::Hash, V: Default>(
    table: &Table<K, V>,
    out: &mut Vec<u8>,
    mut write: impl FnMut(&K, &V, &mut Vec<u8>),
) {
    out.extend_from_slice(&table.len().to_le_bytes());
    out.extend_from_slice(&table.hand().to_le_bytes());
    for (key, value, used) in table.entries() {
        write(key, value, out);
        out.push(u8::from(used));
    }
}

fn read_table<K: Copy + Eq + std::hash::Hash, V: Default>(
    table: &mut Table<K, V>,
    from: &mut Bytes<'_>,
    mut read: impl FnMut(&mut Bytes<'_>) -> Option<(K, V)>,
) -> Option<()> {
    let (len, hand) = (u32::from_le_bytes(from.take()?), u32::from_le_bytes(from.take()?));
    for _ in 0..len {
        let (key, value) = read(from)?;
        let [used] = from.take()?;
        table.restore(key, value, used == 1).then_some(())?;
    }
    table.restore_hand(hand).then_some(())
}

fn write_episode(episode: Episode, out: &mut Vec<u8>) {
    out.extend_from_slice(&episode.told.to_le_bytes());
    out.extend_from_slice(&episode.good.to_le_bytes());
}

fn episode(from: &mut Bytes<'_>) -> Option<Episode> {
    Some(Episode {
        told: u16::from_le_bytes(from.take()?),
        good: u16::from_le_bytes(from.take()?),
    })
}

fn write_device(device: &Device, out: &mut Vec<u8>) {
    out.extend_from_slice(&device.version.to_le_bytes());
    out.extend_from_slice(&device.version_ms.to_le_bytes());
    out.extend_from_slice(&device.moved_minute.to_le_bytes());
    out.extend_from_slice(&device.moved.to_le_bytes());
    write_episode(device.episode, out);
    out.extend_from_slice(&device.budget.to_bytes());
}

fn device(from: &mut Bytes<'_>) -> Option<Device> {
    Some(Device {
        version: u64::from_le_bytes(from.take()?),
        version_ms: i64::from_le_bytes(from.take()?),
        moved_minute: i64::from_le_bytes(from.take()?),
        moved: u64::from_le_bytes(from.take()?),
        episode: episode(from)?,
        budget: alert::Budget::from_bytes(from.take()?),
    })
}

fn write_series(series: &Series, out: &mut Vec<u8>) {
    let (last_ms, last) = series.last.unwrap_or_default();
    out.push(u8::from(series.last.is_some()));
    out.extend_from_slice(&last_ms.to_le_bytes());
    out.extend_from_slice(&last.to_le_bytes());
    out.extend_from_slice(&series.run.since_ms.to_le_bytes());
    out.extend_from_slice(&series.run.count.to_le_bytes());
    write_episode(series.episode, out);
    let (start_ms, sum, count) = series.window.parts();
    out.extend_from_slice(&start_ms.to_le_bytes());
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&series.odd.to_bytes());
    out.extend_from_slice(&series.rest.to_bytes());
    out.extend_from_slice(&series.detector.to_bytes());
}

fn series(from: &mut Bytes<'_>) -> Option<Series> {
    let [known] = from.take()?;
    let last = (i64::from_le_bytes(from.take()?), f64::from_le_bytes(from.take()?));
    Some(Series {
        last: (known == 1).then_some(last),
        run: Run {
            since_ms: i64::from_le_bytes(from.take()?),
            count: u32::from_le_bytes(from.take()?),
        },
        episode: episode(from)?,
        window: Window::from_parts((
            i64::from_le_bytes(from.take()?),
            f64::from_le_bytes(from.take()?),
            u32::from_le_bytes(from.take()?),
        )),
        odd: alert::Episode::from_bytes(from.take()?),
        rest: alert::Rest::from_bytes(from.take()?),
        detector: Detector::from_bytes(&from.take::<{ Detector::BYTES }>()?)?,
    })
}

fn token(from: &mut Bytes<'_>) -> Option<Token> {
    Token::new(&from.take::<22>()?)
}

/// The bytes that are left to read.
struct Bytes<'b>(&'b [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, left) = self.0.split_first_chunk()?;
        self.0 = left;
        Some(*taken)
    }
}
