//! Many devices of one cohort with the same at once: one finding for all.

use std::collections::BTreeMap;

use super::{Config, is_news};
use crate::detect::anomaly::Direction;
use crate::detect::finding::{Cohort, Finding, FindingId, Kind, Origin, Severity};

/// How close together findings are "at once", in ms; also how long a group lasts after its last member.
const TOGETHER_MS: i64 = 5 * 60_000;
/// Fewer devices than this are no group, however small the cohort.
const DEVICES_MIN: usize = 3;
/// Groups that are remembered; the one that was quiet for longest makes room.
const GROUPS_MAX: usize = 1_024;
/// Devices that are remembered in a group; so many are enough to make one in any cohort.
const DEVICES_MAX: usize = 1_024;
/// Cohorts whose size is remembered.
const COHORTS_MAX: usize = 4_096;
/// The version of grouping, in its findings and snapshots.
pub const MODEL: &str = "fleet-1";
const LAYOUT: u8 = 1;

/// What a finding about a device is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// Nothing; it speaks for itself.
    Alone,
    /// It completes a group: the group's finding is to be written as well.
    Completes(Together),
    /// A group of which there is a finding already.
    Member(FindingId),
}

impl Grouping {
    /// The finding of the group.
    #[must_use]
    pub const fn id(&self) -> Option<FindingId> {
        match self {
            Self::Alone => None,
            Self::Completes(together) => Some(together.id),
            Self::Member(id) => Some(*id),
        }
    }
}

/// A group that has just come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Together {
    /// The id of the group's finding. It does not depend on the lane: the lanes that see the same cohort in the same five
    /// minutes give the same id, and a table or consumer that knows ids keeps one.
    pub id: FindingId,
    /// The start of those five minutes, in ms since 1970.
    pub start_ms: i64,
    /// How many devices of the lane are in it so far.
    pub devices: u32,
    /// How many devices of the cohort the lane knows.
    pub of: u32,
}

/// Names what a group is about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The firmware of the cohort.
    pub firmware: &'a str,
    /// The model of the cohort.
    pub model: &'a str,
    /// The metric.
    pub metric: &'a str,
}

impl About<'_> {
    /// The series of the group's finding.
    #[must_use]
    pub fn series(&self) -> String {
        format!(
            "cohort firmware={} model={}/{}",
            self.firmware, self.model, self.metric
        )
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    /// Devices and when they were found, oldest first, within the last five minutes.
    recent: Vec<(u64, i64)>,
    /// The finding, while the group lasts.
    id: Option<FindingId>,
    last_ms: i64,
}

/// The cohorts of one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    sizes: BTreeMap<u64, u32>,
    groups: BTreeMap<(u64, u16), Group>,
}

impl Groups {
    /// A device joins the cohort `to`, from another one or from nowhere. Cohorts are named by a hash of firmware and model.
    pub fn joins(&mut self, from: Option<u64>, to: u64) {
        if let Some(from) = from {
            self.leaves(from);
        }
        if self.sizes.len() < COHORTS_MAX || self.sizes.contains_key(&to) {
            let size = self.sizes.entry(to).or_default();
            *size = size.saturating_add(1);
        }
    }

    /// A device is forgotten.
    pub fn leaves(&mut self, cohort: u64) {
        if let Some(size) = self.sizes.get_mut(&cohort) {
            *size -= 1;
            if *size == 0 {
                self.sizes.remove(&cohort);
            }
        }
    }

    /// A finding about `device` (a hash of its token) of `cohort`, in `metric`.
    pub fn observe(
        &mut self,
        config: &Config,
        (cohort, metric): (u64, u16),
        about: &About<'_>,
        device: u64,
        append_ms: i64,
    ) -> Grouping {
        self.make_room((cohort, metric));
        let of = self.sizes.get(&cohort).copied().unwrap_or(0);
        let group = self.groups.entry((cohort, metric)).or_default();
        let since = append_ms.saturating_sub(TOGETHER_MS);
        group.recent.retain(|(other, at)| *at > since && *other != device);
        if group.recent.len() == DEVICES_MAX {
            group.recent.remove(0);
        }
        group.recent.push((device, append_ms));
        let lasts = group.last_ms > since;
        group.last_ms = append_ms;
        if let Some(id) = group.id.filter(|_| lasts) {
            return Grouping::Member(id);
        }
        group.id = None;
        let needed = (f64::from(of) * config.cohort_percent / 100.0).ceil() as usize;
        if group.recent.len() < needed.clamp(DEVICES_MIN, DEVICES_MAX) {
            return Grouping::Alone;
        }
        let start_ms = append_ms.div_euclid(TOGETHER_MS).saturating_mul(TOGETHER_MS);
        let id = FindingId::new(Kind::Fleet, &about.series(), Origin::window(start_ms), MODEL);
        group.id = Some(id);
        Grouping::Completes(Together {
            id,
            start_ms,
            devices: u32::try_from(group.recent.len()).unwrap_or(u32::MAX),
            of,
        })
    }

    /// Forgets the group that was quiet for longest, when there is no room for another.
    fn make_room(&mut self, key: (u64, u16)) {
        if self.groups.len() < GROUPS_MAX || self.groups.contains_key(&key) {
            return;
        }
        let oldest = self
            .groups
            .iter()
            .min_by_key(|(_, group)| group.last_ms)
            .map(|(key, _)| *key);
        if let Some(oldest) = oldest {
            self.groups.remove(&oldest);
        }
    }

    /// The state, for a snapshot: the same bytes for the same state, integers in little endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![LAYOUT];
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        out.extend(length(self.sizes.len()));
        for (cohort, size) in &self.sizes {
            out.extend(cohort.to_le_bytes());
            out.extend(size.to_le_bytes());
        }
        out.extend(length(self.groups.len()));
        for ((cohort, metric), group) in &self.groups {
            out.extend(cohort.to_le_bytes());
            out.extend(metric.to_le_bytes());
            out.extend(group.last_ms.to_le_bytes());
            out.push(u8::from(group.id.is_some()));
            out.extend(group.id.map_or([0; 16], |id| *id.as_bytes()));
            out.extend(length(group.recent.len()));
            for (device, at) in &group.recent {
                out.extend(device.to_le_bytes());
                out.extend(at.to_le_bytes());
            }
        }
        out
    }

    /// The state that [`Self::to_bytes`] gave; `None` for bytes of another version, or damaged ones.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut from = bytes;
        let [layout] = take(&mut from)?;
        let mut read = Self::default();
        (layout == LAYOUT).then_some(())?;
        for _ in 0..bounded(&mut from, COHORTS_MAX)? {
            let cohort = u64::from_le_bytes(take(&mut from)?);
            let size = u32::from_le_bytes(take(&mut from)?);
            (size > 0).then_some(())?;
            read.sizes.insert(cohort, size);
        }
        for _ in 0..bounded(&mut from, GROUPS_MAX)? {
            let key = (
                u64::from_le_bytes(take(&mut from)?),
                u16::from_le_bytes(take(&mut from)?),
            );
            let last_ms = i64::from_le_bytes(take(&mut from)?);
            let [has_id] = take(&mut from)?;
            let id = FindingId::from_bytes(take(&mut from)?);
            let devices = bounded(&mut from, DEVICES_MAX)?;
            let device = |_| {
                Some((
                    u64::from_le_bytes(take(&mut from)?),
                    i64::from_le_bytes(take(&mut from)?),
                ))
            };
            let recent = (0..devices).map(device).collect::<Option<_>>()?;
            let id = (has_id == 1).then_some(id);
            read.groups.insert(key, Group { recent, id, last_ms });
        }
        from.is_empty().then_some(read)
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*head)
}

fn bounded(from: &mut &[u8], most: usize) -> Option<usize> {
    let length = u32::from_le_bytes(take(from)?) as usize;
    (length <= most).then_some(length)
}

impl Together {
    /// The group's finding, after that of the device that completed it. People are told of it where that is news.
    #[must_use]
    pub fn finding(&self, about: &About<'_>, last: &Finding) -> Finding {
        let severity = last.severity.max(Severity::Medium);
        Finding {
            id: self.id,
            kind: Kind::Fleet,
            series: about.series(),
            device: None,
            time_ms: self.start_ms,
            origin: Origin::window(self.start_ms),
            value: None,
            expected: None,
            direction: Direction::Neither,
            effect: None,
            surprise: None,
            severity,
            reason: format!(
                "{} of {} devices within 5 min: {}",
                self.devices, self.of, last.reason
            ),
            baseline_n: 0,
            baseline_age_ms: 0,
            model: MODEL,
            notify: is_news(severity, last.baseline_age_ms),
            group: None,
            change: None,
            cohort: Some(Cohort {
                firmware: about.firmware.to_owned(),
                model: about.model.to_owned(),
                devices: self.devices,
                of: self.of,
                rank: 0,
                rollout_ms: None,
            }),
            ..last.clone()
        }
    }
}
