//! Groups: one finding for many devices that show the same at once.
//!
//! ```text
//! findings of devices ─▶ cohort (firmware, model) ─▶ fleet
//! ```
//!
//! When one in a hundred devices of a cohort has a finding in the same metric within two windows of five minutes, one
//! group finding represents them and the single findings are not notified. When one in a hundred of all devices do,
//! across several cohorts, one fleet finding represents the cohorts too. Each further window also gets a finding, but
//! people are notified again only after half an hour without a group. A group that is not worth a notice represents no
//! device: members that are worth one are notified individually.
//!
//! Grouping is a pure function of what all lanes have found. It is therefore computed over stored findings and not in a
//! lane, which sees only its own devices. Windows are in event time, so an hour of events that arrives within a minute
//! still spans an hour. Late findings only add to a window: in whatever order findings arrive, the same groups exist in
//! the end, under the same ids, as long as the device counts of the cohorts stay the same. The notices sent until then
//! may differ.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_news;
use crate::anomaly::Direction;
use crate::finding::{Cohort, Finding, FindingId, Kind, Origin, Severity};
use crate::reading::Token;
use pulsegate_settings::Check;

/// Length of a window, in ms. Findings in one window and the window before it count as simultaneous.
pub const WINDOW_MS: i64 = 5 * 60_000;
/// Number of windows without a group after which people are notified of a new one.
const QUIET_WINDOWS: i64 = 6;
/// Number of windows before its own that determine the group of a sighting; one more than `QUIET_WINDOWS`, because
/// the first window of the range does not show which group came before it.
pub const WINDOWS_BACK: i64 = QUIET_WINDOWS + 1;
/// Minimum number of devices in a group, however small the cohort.
pub const DEVICES_MIN: usize = 3;
/// Minimum number of cohorts in a fleet finding.
const COHORTS_MIN: usize = 2;
/// The version of the grouping method, stored in its findings.
pub const MODEL: &str = "fleet-2";

/// When one finding represents many devices.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Percentage of the devices of a cohort, or of the fleet, that must show the same at once to form a group; never
    /// fewer than three devices. Default: 1.
    pub percent: f64,
    /// How long a finding about a device waits for others before it is sent to its topic, in seconds. Default: 30, as
    /// in Prometheus' Alertmanager (`group_wait`).
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
    /// Reports values that are out of range.
    pub fn check(&self, check: &mut Check) {
        if !(0.01..=100.0).contains(&self.percent) {
            check.problem("percent", "must be between 0.01 and 100");
        }
        check.range("wait_s", self.wait_s.into(), 5..=600);
    }

    /// Minimum number of devices in a group, given a cohort or fleet of `of` devices.
    fn devices_min(&self, of: u32) -> usize {
        ((f64::from(of) * self.percent / 100.0).ceil() as usize).max(DEVICES_MIN)
    }
}

/// The firmware and the model of a device.
pub type Version = (String, String);

/// A finding about a device, reduced to what grouping needs.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// The id of the finding.
    pub id: FindingId,
    /// The token of the device.
    pub device: Token,
    /// The firmware and model of the device, if known.
    pub version: Option<Version>,
    /// The name of the metric.
    pub metric: String,
    /// The UCUM unit of the metric's values.
    pub unit: String,
    /// The time of the event, in ms since 1970.
    pub time_ms: i64,
    /// When the broker appended the record that showed it, in ms since 1970.
    pub detected_ms: i64,
    /// The severity of the finding.
    pub severity: Severity,
    /// The reason of the finding, in words.
    pub reason: String,
    /// How long ago its baseline began, in ms.
    pub baseline_age_ms: i64,
}

/// The result of grouping sightings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gathered {
    /// The group findings.
    pub findings: Vec<Finding>,
    /// Findings about devices and cohorts, each with the group that represents it.
    pub joined: Vec<(FindingId, FindingId)>,
}

/// Groups simultaneous sightings. `sightings` are ordered by time; `devices` counts the devices of each cohort.
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

/// The devices among which groups are looked for, and the conditions for a group.
struct Crowd<'v> {
    series: String,
    cohort: Option<&'v Version>,
    /// Number of devices in the cohort or the fleet.
    of: u32,
    devices_min: usize,
    /// Minimum number of cohorts with [`DEVICES_MIN`] devices each: a stray device of another cohort makes no fleet.
    cohorts_min: usize,
}

/// The groups of a crowd, by the number of their window.
type Groups<'s> = BTreeMap<i64, Group<'s>>;

/// Sightings that one finding represents.
struct Group<'s> {
    finding: Finding,
    /// Whether the group is worth a notice, even if a recent notice suppresses it.
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
            // Members of the window before are represented by a group of their own, or else by this one.
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
        // Only members that would be notified on their own count towards the notice of the group.
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

/// The number of distinct devices among the sightings.
fn distinct<'s>(sightings: impl Iterator<Item = &'s Sighting>) -> usize {
    let devices: BTreeSet<Token> = sightings.map(|sighting| sighting.device).collect();
    devices.len()
}

/// The number of cohorts with at least [`DEVICES_MIN`] devices among the sightings.
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

/// The most frequent reason, marked "mostly" when there are others.
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
    /// Adds groups, which the groups `above` of the same windows represent, and those of their members that no group
    /// represents yet.
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

    /// A sighting of a device whose firmware is its number's hundreds digit, `after_ms` after noon.
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

    /// `count` cohorts of a thousand devices each.
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
            "nine devices, one of them twice"
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
        assert_eq!(joined, expected, "including members of the window before");
    }

    #[test]
    fn sightings_further_apart_or_of_another_metric_are_not_grouped() {
        let mut far: Vec<_> = (0..5).map(|device| sighting(device, 0)).collect();
        far.extend((5..10).map(|device| sighting(device, 10 * MINUTE)));
        assert_eq!(gathered(&far, 1), Gathered::default());
        let mut other: Vec<_> = (0..10).map(|device| sighting(device, 0)).collect();
        "spo2".clone_into(&mut other[3].metric);
        assert_eq!(gathered(&other, 1), Gathered::default());
    }

    #[test]
    fn a_lasting_group_is_notified_once() {
        let mut sightings: Vec<_> = (0..40)
            .map(|device| sighting(device, device as i64 * MINUTE / 2))
            .collect();
        // Again after a pause of just under half an hour, and again after more than half an hour.
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
            "each joins the group of its own window"
        );
    }

    #[test]
    fn a_small_cohort_needs_three_devices() {
        let devices = [(version(0), 5)].into();
        let of = |count: usize| {
            let sightings: Vec<_> = (0..count).map(|device| sighting(device, 0)).collect();
            gather(&Config::default(), &sightings, &devices).findings.len()
        };
        assert_eq!([of(2), of(3)], [0, 1]);
    }

    #[test]
    fn several_cohorts_with_the_same_make_one_fleet_finding() {
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
            "the fleet represents it"
        );
        let group_of: BTreeMap<_, _> = joined.into_iter().collect();
        assert_eq!(group_of[&cohort.id], fleet.id);
        assert_eq!(group_of[&sightings[0].id], cohort.id);
        assert_eq!(group_of[&sightings[19].id], fleet.id, "its cohort has no group");
        assert_eq!(group_of.len(), 21);
    }

    #[test]
    fn a_stray_device_of_another_cohort_makes_no_fleet_and_the_most_frequent_reason_wins() {
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
    fn one_cohort_alone_is_not_the_fleet_and_devices_of_unknown_version_are_no_cohort() {
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
    fn a_group_is_notified_only_with_three_members_that_are_worth_a_notice() {
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
            "the two are notified individually"
        );
        // Five minutes later there are enough.
        let later = sightings
            .iter()
            .cloned()
            .chain((10..13).map(|device| sighting(device, 5 * MINUTE)));
        let Gathered { findings, joined } = gathered(&later.collect::<Vec<_>>(), 1);
        let told: Vec<_> = findings.iter().map(|finding| finding.notify).collect();
        assert_eq!((told, joined.len()), (vec![false, true], 13));
    }

    proptest! {
        /// A group that exists before all sightings have arrived still exists afterwards.
        #[test]
        fn late_sightings_only_add_groups(
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
