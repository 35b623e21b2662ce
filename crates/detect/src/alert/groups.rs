//! Many devices with the same at once: one finding for all of them.
//!
//! ```text
//! findings of devices ─▶ cohort (firmware, model) ─▶ fleet
//! ```
//!
//! When one in a hundred devices of a cohort has a finding in the same metric within two windows of five minutes, one
//! finding speaks for them and they stay silent. When devices of several cohorts do, one in a hundred of all there are, one
//! finding speaks for the cohorts too. Each further window has a finding as well, of which nobody is told until half an hour
//! was quiet. A group that is no news speaks for nobody: who is news in it is told of by itself.
//!
//! It is a pure function of what all lanes have found, so it is computed over stored findings and not in a lane, which sees
//! only its own devices. Windows are of the time of events, so that an hour of events that comes in a minute is an hour. What
//! comes later only adds to a window: in whatever order findings come, in the end the same groups are there, under the same
//! ids, as long as the counts of devices that they are a part of stay the same. What people were told of by then may differ.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_news;
use crate::anomaly::Direction;
use crate::finding::{Cohort, Finding, FindingId, Kind, Origin, Severity};
use crate::reading::Token;
use pulsegate_settings::Check;

/// A window, in ms. Devices of a window and of the one before it are at once.
pub const WINDOW_MS: i64 = 5 * 60_000;
/// People are told of a group when there was none in so many windows.
const QUIET_WINDOWS: i64 = 6;
/// How many windows before its own decide what becomes of a sighting: in the first of them it is not known which group was
/// before.
pub const WINDOWS_BACK: i64 = QUIET_WINDOWS + 1;
/// Fewer devices than this are no group, however small the cohort.
pub const DEVICES_MIN: usize = 3;
/// Fewer cohorts than this are a cohort's matter and not the fleet's.
const COHORTS_MIN: usize = 2;
/// The version of grouping, in its findings.
pub const MODEL: &str = "fleet-2";

/// When one finding speaks for many devices.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many of the devices of a cohort, or of the fleet, have to show the same at once, in percent; three at least.
    /// Default: 1.
    pub percent: f64,
    /// How long a finding about a device waits for others before it goes to its topic, in seconds. Default: 30, as in
    /// Prometheus' Alertmanager (`group_wait`).
    pub wait_s: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            percent: 1.0,
            wait_s: 30,
        }
    }
}

impl Config {
    /// Notes what makes no sense.
    pub fn check(&self, check: &mut Check) {
        if !(0.01..=100.0).contains(&self.percent) {
            check.problem("percent", "must be between 0.01 and 100");
        }
        check.range("wait_s", self.wait_s.into(), 5..=600);
    }

    /// How many devices of `of` make a group.
    fn devices_min(&self, of: u32) -> usize {
        ((f64::from(of) * self.percent / 100.0).ceil() as usize).max(DEVICES_MIN)
    }
}

/// What a device runs: its firmware and its model.
pub type Version = (String, String);

/// A finding about a device, as grouping sees it.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// The finding.
    pub id: FindingId,
    /// The device.
    pub device: Token,
    /// What it runs, where that is known.
    pub version: Option<Version>,
    /// The metric.
    pub metric: String,
    /// The UCUM unit of the metric's values.
    pub unit: String,
    /// The time of the event, in ms since 1970.
    pub time_ms: i64,
    /// When the broker appended the record that showed it, in ms since 1970.
    pub detected_ms: i64,
    /// How much attention it deserves.
    pub severity: Severity,
    /// The finding in words.
    pub reason: String,
    /// How long ago its baseline began, in ms.
    pub baseline_age_ms: i64,
}

/// What sightings come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gathered {
    /// The findings of groups.
    pub findings: Vec<Finding>,
    /// Findings about devices and cohorts, each with the group that speaks for it.
    pub joined: Vec<(FindingId, FindingId)>,
}

/// Gathers what was seen at once. `sightings` are in order of their time; `devices` counts the devices of each cohort.
#[must_use]
pub fn gather(config: &Config, sightings: &[Sighting], devices: &BTreeMap<Version, u32>) -> Gathered {
    let mut metrics: BTreeMap<&str, Vec<&Sighting>> = BTreeMap::new();
    for sighting in sightings {
        metrics.entry(&sighting.metric).or_default().push(sighting);
    }
    let mut gathered = Gathered::default();
    for (metric, sightings) in metrics {
        let fleet = Crowd::fleet(config, metric, devices).groups(&sightings);
        let mut cohorts: BTreeMap<&Version, Vec<&Sighting>> = BTreeMap::new();
        for sighting in &sightings {
            if let Some(version) = &sighting.version {
                cohorts.entry(version).or_default().push(sighting);
            }
        }
        let mut spoken_for = BTreeSet::new();
        for (version, sightings) in cohorts {
            let groups = Crowd::cohort(config, metric, version, devices).groups(&sightings);
            gathered.add(&groups, &fleet, &mut spoken_for);
        }
        gathered.add(&fleet, &Groups::new(), &mut spoken_for);
    }
    gathered
}

/// Whose groups are looked for, and what makes one.
struct Crowd<'v> {
    series: String,
    cohort: Option<&'v Version>,
    /// How many devices there are.
    of: u32,
    devices_min: usize,
    /// Cohorts of which [`DEVICES_MIN`] devices are in it: a stray device of another one makes no fleet.
    cohorts_min: usize,
}

/// The groups of a crowd, by the number of their window.
type Groups<'s> = BTreeMap<i64, Group<'s>>;

/// Sightings for which one finding speaks.
struct Group<'s> {
    finding: Finding,
    /// People are told of it, or were not long ago.
    is_news: bool,
    members: Vec<&'s Sighting>,
}

impl<'v> Crowd<'v> {
    fn cohort(config: &Config, metric: &str, version: &'v Version, devices: &BTreeMap<Version, u32>) -> Self {
        let (firmware, model) = version;
        let of = devices.get(version).copied().unwrap_or(0);
        Self {
            series: format!("cohort firmware={firmware} model={model}/{metric}"),
            cohort: Some(version),
            of,
            devices_min: config.devices_min(of),
            cohorts_min: 0,
        }
    }

    fn fleet(config: &Config, metric: &str, devices: &BTreeMap<Version, u32>) -> Self {
        let all = devices.values();
        let of = all.fold(0, |sum: u32, devices| sum.saturating_add(*devices));
        Self {
            series: format!("fleet/{metric}"),
            cohort: None,
            of,
            devices_min: config.devices_min(of),
            cohorts_min: COHORTS_MIN,
        }
    }

    fn groups<'s>(&self, sightings: &[&'s Sighting]) -> Groups<'s> {
        let mut windows: BTreeMap<i64, Vec<&'s Sighting>> = BTreeMap::new();
        for sighting in sightings {
            let window = sighting.time_ms.div_euclid(WINDOW_MS);
            windows.entry(window).or_default().push(sighting);
        }
        let mut groups = Groups::new();
        for (window, own) in &windows {
            let goes_on = groups
                .range(window - QUIET_WINDOWS..)
                .any(|(_, group)| group.is_news);
            let before = windows.get(&(window - 1)).into_iter().flatten().copied();
            let together: Vec<&Sighting> = before.chain(own.iter().copied()).collect();
            let Some(mut finding) = self.finding(*window, &together) else {
                continue;
            };
            let is_news = finding.notify;
            finding.notify &= !goes_on;
            // Those of the window before have a group that speaks for them, or wait for this one.
            let are_spoken_for = groups.get(&(window - 1)).is_some_and(|group| group.is_news);
            let members = if are_spoken_for { own.clone() } else { together };
            let group = Group {
                finding,
                is_news,
                members,
            };
            groups.insert(*window, group);
        }
        groups
    }

    /// The finding for these sightings, if they are a group.
    fn finding(&self, window: i64, together: &[&Sighting]) -> Option<Finding> {
        let last = together.last()?;
        let devices = distinct(together.iter().copied());
        let cohorts = cohorts(together);
        if devices < self.devices_min || cohorts < self.cohorts_min {
            return None;
        }
        // Three that nobody would be told of by themselves are no news either.
        let news = together
            .iter()
            .copied()
            .filter(|sighting| is_news(sighting.severity, sighting.baseline_age_ms));
        let severity = together.iter().map(|sighting| sighting.severity).max()?;
        let severity = severity.max(Severity::Medium);
        let devices = u32::try_from(devices).unwrap_or(u32::MAX);
        let start_ms = window.saturating_mul(WINDOW_MS);
        let origin = Origin::window(start_ms);
        let whose = match self.cohort {
            Some(_) => String::new(),
            None => format!(" in {cohorts} cohorts"),
        };
        Some(Finding {
            id: FindingId::new(Kind::Fleet, &self.series, origin, MODEL),
            kind: Kind::Fleet,
            series: self.series.clone(),
            device: None,
            metric: last.metric.clone(),
            time_ms: start_ms,
            detected_ms: last.detected_ms,
            origin,
            value: None,
            unit: last.unit.clone(),
            expected: None,
            direction: Direction::Neither,
            effect: None,
            surprise: None,
            severity,
            reason: format!(
                "{devices} of {} devices{whose} within 10 min: {}",
                self.of,
                words(together)
            ),
            baseline_n: 0,
            baseline_age_ms: 0,
            model: MODEL,
            notify: distinct(news) >= DEVICES_MIN,
            group: None,
            change: None,
            cohort: self.cohort.map(|(firmware, model)| Cohort {
                firmware: firmware.clone(),
                model: model.clone(),
                devices,
                of: self.of,
                rank: 0,
                rollout_ms: None,
            }),
        })
    }
}

/// How many devices these are of.
fn distinct<'s>(sightings: impl Iterator<Item = &'s Sighting>) -> usize {
    let devices: BTreeSet<Token> = sightings.map(|sighting| sighting.device).collect();
    devices.len()
}

/// How many cohorts have [`DEVICES_MIN`] devices among these.
fn cohorts(together: &[&Sighting]) -> usize {
    let mut cohorts: BTreeMap<&Version, BTreeSet<Token>> = BTreeMap::new();
    for sighting in together {
        if let Some(version) = &sighting.version {
            cohorts.entry(version).or_default().insert(sighting.device);
        }
    }
    cohorts
        .values()
        .filter(|devices| devices.len() >= DEVICES_MIN)
        .count()
}

/// What most of these say.
fn words(together: &[&Sighting]) -> String {
    let mut said: BTreeMap<&str, usize> = BTreeMap::new();
    for sighting in together {
        *said.entry(&sighting.reason).or_default() += 1;
    }
    let most = said
        .iter()
        .max_by_key(|(_, count)| **count)
        .map(|(reason, _)| *reason);
    let mostly = if said.len() > 1 { "mostly " } else { "" };
    format!("{mostly}{}", most.unwrap_or_default())
}

impl Gathered {
    /// Adds groups, for which the groups `above` of the same windows speak, and their members that nobody speaks for yet.
    fn add(&mut self, groups: &Groups<'_>, above: &Groups<'_>, spoken_for: &mut BTreeSet<FindingId>) {
        for (window, group) in groups {
            let above = above.get(window).filter(|above| above.is_news);
            let above = above.map(|above| above.finding.id);
            let id = group.finding.id;
            self.findings.push(Finding {
                group: above,
                notify: group.finding.notify && above.is_none(),
                ..group.finding.clone()
            });
            self.joined.extend(above.map(|above| (id, above)));
            if group.is_news {
                let new = group.members.iter().filter(|member| spoken_for.insert(member.id));
                self.joined.extend(new.map(|member| (member.id, id)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: i64 = 1_795_341_600_000;
    const MINUTE: i64 = 60_000;
    const DAY_MS: i64 = 1_440 * MINUTE;

    fn version(firmware: usize) -> Version {
        (format!("{firmware}.0"), "band".to_owned())
    }

    /// A device that runs what its hundreds say, and is found so long after noon.
    fn sighting(device: usize, after_ms: i64) -> Sighting {
        let series = format!("{device}");
        let origin = Origin::window(after_ms);
        Sighting {
            id: FindingId::new(Kind::Anomaly, &series, origin, "test"),
            device: Token::new(format!("{device:022}").as_bytes()).expect("digits are letters of base64url"),
            version: Some(version(device / 100)),
            metric: "heart_rate".to_owned(),
            unit: "/min".to_owned(),
            time_ms: NOON + after_ms,
            detected_ms: NOON + after_ms + MINUTE,
            severity: Severity::Medium,
            reason: "above its range".to_owned(),
            baseline_age_ms: DAY_MS,
        }
    }

    /// As many cohorts, of a thousand devices each.
    fn cohorts(count: usize) -> BTreeMap<Version, u32> {
        (0..count).map(|firmware| (version(firmware), 1_000)).collect()
    }

    fn gathered(sightings: &[Sighting], count: usize) -> Gathered {
        gather(&Config::default(), sightings, &cohorts(count))
    }

    #[test]
    fn one_in_a_hundred_of_a_cohort_is_one_finding_for_all_of_them() {
        let mut sightings: Vec<_> = (0..9)
            .map(|device| sighting(device, device as i64 * 30_000))
            .collect();
        sightings.push(sighting(8, 4 * MINUTE + 30_000));
        assert_eq!(
            gathered(&sightings, 1),
            Gathered::default(),
            "nine, of which one twice"
        );
        sightings.push(sighting(9, 5 * MINUTE));
        let Gathered { findings, joined } = gathered(&sightings, 1);
        let [group] = &findings[..] else {
            panic!("{findings:?}")
        };
        assert_eq!(group.reason, "10 of 1000 devices within 10 min: above its range");
        assert_eq!(
            (
                group.kind,
                group.series.as_str(),
                group.time_ms,
                group.notify,
                group.group
            ),
            (
                Kind::Fleet,
                "cohort firmware=0.0 model=band/heart_rate",
                NOON + 5 * MINUTE,
                true,
                None
            )
        );
        assert_eq!(
            group.cohort.as_ref().map(|cohort| (cohort.devices, cohort.of)),
            Some((10, 1_000))
        );
        let expected: Vec<_> = sightings.iter().map(|sighting| (sighting.id, group.id)).collect();
        assert_eq!(joined, expected, "also those of the window before");
    }

    #[test]
    fn what_lies_further_apart_or_is_of_another_metric_is_not_together() {
        let mut far: Vec<_> = (0..5).map(|device| sighting(device, 0)).collect();
        far.extend((5..10).map(|device| sighting(device, 10 * MINUTE)));
        assert_eq!(gathered(&far, 1), Gathered::default());
        let mut other: Vec<_> = (0..10).map(|device| sighting(device, 0)).collect();
        "spo2".clone_into(&mut other[3].metric);
        assert_eq!(gathered(&other, 1), Gathered::default());
    }

    #[test]
    fn while_it_goes_on_people_are_told_once() {
        let mut sightings: Vec<_> = (0..40)
            .map(|device| sighting(device, device as i64 * MINUTE / 2))
            .collect();
        // Again after half an hour less a minute, and again after more than half an hour.
        sightings.extend((0..10).map(|device| sighting(device, 49 * MINUTE)));
        sightings.extend((0..10).map(|device| sighting(device, 80 * MINUTE)));
        let Gathered { findings, joined } = gathered(&sightings, 1);
        let told: Vec<_> = findings
            .iter()
            .map(|finding| ((finding.time_ms - NOON) / MINUTE, finding.notify))
            .collect();
        assert_eq!(
            told,
            [
                (0, true),
                (5, false),
                (10, false),
                (15, false),
                (45, false),
                (80, true)
            ]
        );
        assert_eq!(joined.len(), 60);
        assert_eq!(
            joined[39],
            (sightings[39].id, findings[3].id),
            "each to its own window's"
        );
    }

    #[test]
    fn a_small_cohort_takes_three_devices() {
        let devices = [(version(0), 5)].into();
        let of = |count: usize| {
            let sightings: Vec<_> = (0..count).map(|device| sighting(device, 0)).collect();
            gather(&Config::default(), &sightings, &devices).findings.len()
        };
        assert_eq!([of(2), of(3)], [0, 1]);
    }

    #[test]
    fn what_several_cohorts_show_is_one_finding_of_the_fleet() {
        // Of two thousand devices: twelve of one cohort, eight of the other.
        let sightings: Vec<_> = (0..12)
            .chain(100..108)
            .map(|device| sighting(device, 0))
            .collect();
        let Gathered { findings, joined } = gathered(&sightings, 2);
        let [cohort, fleet] = &findings[..] else {
            panic!("{findings:?}")
        };
        assert_eq!(fleet.series, "fleet/heart_rate");
        assert_eq!(
            fleet.reason,
            "20 of 2000 devices in 2 cohorts within 10 min: above its range"
        );
        assert_eq!((fleet.notify, fleet.group, &fleet.cohort), (true, None, &None));
        assert_eq!(
            (cohort.notify, cohort.group),
            (false, Some(fleet.id)),
            "the fleet speaks for it"
        );
        let group_of: BTreeMap<_, _> = joined.into_iter().collect();
        assert_eq!(group_of[&cohort.id], fleet.id);
        assert_eq!(group_of[&sightings[0].id], cohort.id);
        assert_eq!(group_of[&sightings[19].id], fleet.id, "its cohort is no group");
        assert_eq!(group_of.len(), 21);
    }

    #[test]
    fn a_stray_device_of_another_cohort_makes_no_fleet_and_most_words_count() {
        let mut sightings: Vec<_> = (0..30)
            .chain(100..102)
            .map(|device| sighting(device, 0))
            .collect();
        "below its range".clone_into(&mut sightings[31].reason);
        "below its range".clone_into(&mut sightings[4].reason);
        let Gathered { findings, .. } = gathered(&sightings, 2);
        let [cohort] = &findings[..] else {
            panic!("{findings:?}")
        };
        assert_eq!(
            cohort.reason,
            "30 of 1000 devices within 10 min: mostly above its range"
        );
        assert!(cohort.notify);
    }

    #[test]
    fn one_cohort_alone_is_not_the_fleet_and_devices_of_no_known_version_are_no_cohort() {
        let one: Vec<_> = (0..20).map(|device| sighting(device, 0)).collect();
        assert_eq!(gathered(&one, 2).findings.len(), 1);
        let nameless: Vec<_> = one
            .into_iter()
            .map(|sighting| Sighting {
                version: None,
                ..sighting
            })
            .collect();
        assert_eq!(gathered(&nameless, 2), Gathered::default());
    }

    #[test]
    fn what_nobody_would_be_told_of_is_no_news_in_a_group_either() {
        let young = |device| Sighting {
            baseline_age_ms: DAY_MS - 1,
            ..sighting(device, 0)
        };
        let mild = |device| Sighting {
            severity: Severity::Low,
            ..sighting(device, 0)
        };
        let two = (8..10).map(|device| sighting(device, 0));
        let sightings: Vec<_> = (0..4).map(young).chain((4..8).map(mild)).chain(two).collect();
        let Gathered { findings, joined } = gathered(&sightings, 1);
        let told: Vec<_> = findings.iter().map(|finding| finding.notify).collect();
        assert_eq!(
            (told, joined),
            (vec![false], vec![]),
            "the two speak for themselves"
        );
        // Five minutes later it is.
        let later = sightings
            .iter()
            .cloned()
            .chain((10..13).map(|device| sighting(device, 5 * MINUTE)));
        let Gathered { findings, joined } = gathered(&later.collect::<Vec<_>>(), 1);
        let told: Vec<_> = findings.iter().map(|finding| finding.notify).collect();
        assert_eq!((told, joined.len()), (vec![false, true], 13));
    }

    proptest! {
        /// A group that was there when some had not come yet is there when all have.
        #[test]
        fn what_comes_later_only_adds_groups(
            events in proptest::collection::vec((0_usize..300, 0_i64..60, any::<bool>()), 0..120),
        ) {
            let mut events = events;
            events.sort_unstable_by_key(|(_, minute, _)| *minute);
            let config = Config { percent: 0.3, ..Config::default() };
            let ids = |sightings: &[Sighting]| -> BTreeSet<FindingId> {
                let gathered = gather(&config, sightings, &cohorts(3));
                gathered.findings.iter().map(|finding| finding.id).collect()
            };
            let all = events.iter().map(|(device, minute, _)| sighting(*device, minute * MINUTE));
            let some = events.iter().filter(|(.., early)| *early).map(|(device, minute, _)| sighting(*device, minute * MINUTE));
            let (all, some) = (ids(&all.collect::<Vec<_>>()), ids(&some.collect::<Vec<_>>()));
            prop_assert!(some.is_subset(&all));
        }
    }
}
