//! A finding: one result of detection, with the words and numbers that explain it.
//!
//! Findings describe measurements, never health: they state a value, the value that was expected and how surprising the
//! difference is. Interpretation is left to people.
//!
//! A finding is a pure function of the log it was found in. Its id is derived from its series and from the record that
//! showed it, so a rebuild from scratch, on any worker, writes the same findings again and a consumer can drop the ones
//! it has already seen.

use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::anomaly::Direction;

/// The type of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A value that the series' own history does not explain.
    Anomaly,
    /// A lasting change of a series' level, variance or slope.
    Change,
    /// A cohort of devices, or the pipeline, that differs from its controls or from its own past.
    Regression,
    /// Readings caused by a fault of the sensor, the clock or the transport.
    Quality,
    /// Many devices of one cohort with findings at the same time; this finding stands for all of them.
    Fleet,
}

impl Kind {
    /// Every kind, in the order of the enumeration.
    pub const ALL: [Self; 5] = [
        Self::Anomaly,
        Self::Change,
        Self::Regression,
        Self::Quality,
        Self::Fleet,
    ];

    /// The name in the table, in JSON, in metric labels and under the finding's id.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anomaly => "anomaly",
            Self::Change => "change",
            Self::Regression => "regression",
            Self::Quality => "quality",
            Self::Fleet => "fleet",
        }
    }
}

/// How much attention a finding deserves; see [`Severity::of`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Stored for reference only.
    #[default]
    Low,
    /// Should be reviewed.
    Medium,
    /// Should be reviewed first.
    High,
}

impl Severity {
    /// The name in the table and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }

    /// The severity with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Low, Self::Medium, Self::High]
            .into_iter()
            .find(|severity| severity.as_str() == name)
    }

    /// Surprise (−log₁₀ p) times duration, never below `floor`.
    ///
    /// The duration enters by its logarithm: an hour of the same anomaly weighs more than a minute of it, but not sixty
    /// times more. `floor` is for metrics that must always be reviewed. NaN counts as no surprise.
    #[must_use]
    pub fn of(surprise: f64, duration_minutes: f64, floor: Self) -> Self {
        let weight = surprise.max(0.0) * (1.0 + duration_minutes.max(0.0)).log10().max(0.3);
        let own = if weight >= 12.0 {
            Self::High
        } else if weight >= 4.0 {
            Self::Medium
        } else {
            Self::Low
        };
        own.max(floor)
    }
}

/// The id of a finding: the first 16 bytes of a SHA-256, in the form of a UUID of version 8 (RFC 9562 §5.8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FindingId([u8; 16]);

impl FindingId {
    /// The id of the finding of this kind that this version of the model made in `series` from the record at `origin`.
    ///
    /// `SHA-256(len(kind) ‖ kind ‖ len(series) ‖ series ‖ partition ‖ offset ‖ index ‖ model)`, with lengths and
    /// numbers big-endian and lengths of four bytes. Six bits are replaced by the version and the variant; with the
    /// other 122 the probability of two equal ids among 10¹² findings is below one in 10¹³.
    #[must_use]
    pub fn new(kind: Kind, series: &str, origin: Origin, model: &str) -> Self {
        let mut hasher = Sha256::new();
        for text in [kind.as_str(), series] {
            hasher.update(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            hasher.update(text);
        }
        hasher.update(origin.partition.to_be_bytes());
        hasher.update(origin.offset.to_be_bytes());
        hasher.update(origin.index.to_be_bytes());
        hasher.update(model);
        let digest = hasher.finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(*uuid::Builder::from_custom_bytes(bytes).as_uuid().as_bytes())
    }

    /// The id with these stored bytes; see [`FindingId::as_bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes, as the `uuid` column holds them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for FindingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for FindingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for FindingId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The reading that showed a finding: its position in the clean topic, or [`Origin::window`] if no single record shows
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Origin {
    /// The partition of the clean topic; −1 for a window.
    pub partition: i32,
    /// The offset in the partition, or the start of the window in milliseconds since 1970.
    pub offset: i64,
    /// The index of the reading in the record; 0 when the finding is about the whole record.
    pub index: u32,
}

impl Origin {
    /// The origin of a finding computed over a window of time instead of one record, identified by the window's start.
    #[must_use]
    pub const fn window(start_ms: i64) -> Self {
        Self {
            partition: -1,
            offset: start_ms,
            index: 0,
        }
    }
}

/// When a series entered another regime, and what differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChangeDetail {
    /// The property that changed: `level`, `variance` or `slope`.
    pub of: &'static str,
    /// Earliest possible time of the change, in milliseconds since 1970.
    pub earliest_ms: i64,
    /// Latest possible time of the change, in milliseconds since 1970.
    pub latest_ms: i64,
    /// The level, standard deviation or slope before the change, in the series' unit.
    pub before: f64,
    /// The level, standard deviation or slope after the change, in the series' unit.
    pub after: f64,
    /// Confidence that a change happened at all, in [0, 1].
    pub confidence: f64,
}

/// The cohort of devices that a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cohort {
    /// The firmware of the devices.
    pub firmware: String,
    /// The model of the devices.
    pub model: String,
    /// Number of devices that show the finding (grouped findings) or were compared (regressions).
    pub devices: u32,
    /// Number of devices in the cohort (grouped findings), or of controls they were compared with (regressions).
    pub of: u32,
    /// 1 for the cohort that contributes most among those found in the same window; 0 when nothing was ranked.
    pub rank: u32,
    /// When the first of the devices switched to this firmware within the window, according to its events.
    pub rollout_ms: Option<i64>,
}

/// One finding, with everything that explains it. A number that does not apply is `None`, never 0.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The stable id; see [`FindingId::new`].
    pub id: FindingId,
    /// The type of the finding.
    pub kind: Kind,
    /// The series it is about: `device-token/metric`, `cohort firmware=… model=…/metric` or `kpi/name`.
    pub series: String,
    /// The device's token, when the finding is about one device.
    #[serde(serialize_with = "token")]
    pub device: Option<[u8; 22]>,
    /// The metric's name in `schemas/metrics.toml`, or the KPI's; empty when the finding is about a whole record.
    pub metric: String,
    /// The time of the event, in milliseconds since 1970.
    pub time_ms: i64,
    /// When the broker appended the record that showed it, in milliseconds since 1970.
    pub detected_ms: i64,
    /// The reading that showed it.
    pub origin: Origin,
    /// The observed value, in `unit`.
    pub value: Option<f64>,
    /// The UCUM unit of `value`, `expected`, `before` and `after`.
    pub unit: String,
    /// The range in which the value was expected, in `unit`.
    pub expected: Option<(f64, f64)>,
    /// The side of the expected range on which the value lies.
    pub direction: Direction,
    /// The distance from the expected value, in standard deviations of the baseline.
    pub effect: Option<f64>,
    /// −log₁₀ of the probability of a value at least as extreme when nothing has happened.
    pub surprise: Option<f64>,
    /// How much attention the finding deserves.
    pub severity: Severity,
    /// The dominant feature in words, without diagnosis: "flat for 40 min".
    pub reason: String,
    /// Number of points in the baseline.
    pub baseline_n: u32,
    /// How long ago the baseline began, in milliseconds.
    pub baseline_age_ms: i64,
    /// The version of the model that found it.
    pub model: &'static str,
    /// Whether people are notified. Every finding is stored; few are notified.
    pub notify: bool,
    /// The group finding that stands for this one, when many devices show the same at once.
    pub group: Option<FindingId>,
    /// When and what changed; only for a change.
    pub change: Option<ChangeDetail>,
    /// The devices it is about; only for a regression or a fleet finding.
    pub cohort: Option<Cohort>,
}

impl Finding {
    /// The finding in JSON, as in the topic `biometrics.findings` and the table: one line, the fields in the order
    /// above, numbers in the shortest form that parses back to the same value, and `null` for a number that is not
    /// finite. Equal findings give equal bytes.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        // Serializing strings, numbers and plain structs cannot fail; if it ever did, the watch must not panic here.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn token<S: Serializer>(device: &Option<[u8; 22]>, serializer: S) -> Result<S::Ok, S::Error> {
    // Tokens are ASCII; any other byte is written as a replacement character instead of failing.
    match device {
        Some(bytes) => serializer.serialize_some(&String::from_utf8_lossy(bytes)),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn finding(value: f64) -> Finding {
        let origin = Origin {
            partition: 3,
            offset: 42,
            index: 1,
        };
        let series = "AAAAAAAAAAAAAAAAAAAAAA/heart_rate";
        Finding {
            id: FindingId::new(Kind::Anomaly, series, origin, "anomaly-1"),
            kind: Kind::Anomaly,
            series: series.to_owned(),
            device: Some([b'A'; 22]),
            metric: "heart_rate".to_owned(),
            time_ms: 1_700_000_000_000,
            detected_ms: 1_700_000_001_000,
            origin,
            value: Some(value),
            unit: "/min".to_owned(),
            expected: Some((55.0, 80.0)),
            direction: Direction::Above,
            effect: Some(5.5),
            surprise: Some(6.25),
            severity: Severity::of(6.25, 9.0, Severity::Low),
            reason: "far above its range".to_owned(),
            baseline_n: 1440,
            baseline_age_ms: 86_400_000,
            model: "anomaly-1",
            notify: true,
            group: None,
            change: None,
            cohort: None,
        }
    }

    /// Consumers parse these bytes and deduplicate by the id: neither may change unnoticed.
    #[test]
    fn json_has_the_fields_and_the_id_that_consumers_rely_on() {
        let json = String::from_utf8(finding(120.0).json()).expect("JSON is UTF-8");
        assert_eq!(
            json,
            concat!(
                r#"{"id":"ID","kind":"anomaly","series":"AAAAAAAAAAAAAAAAAAAAAA/heart_rate","#,
                r#""device":"AAAAAAAAAAAAAAAAAAAAAA","metric":"heart_rate","time_ms":1700000000000,"#,
                r#""detected_ms":1700000001000,"origin":{"partition":3,"offset":42,"index":1},"value":120.0,"#,
                r#""unit":"/min","expected":[55.0,80.0],"direction":"above","effect":5.5,"surprise":6.25,"#,
                r#""severity":"medium","reason":"far above its range","baseline_n":1440,"#,
                r#""baseline_age_ms":86400000,"model":"anomaly-1","notify":true,"group":null,"change":null,"#,
                r#""cohort":null}"#
            )
            .replace("ID", "939d61c2-7462-84d9-b3bd-eb47baa5ddba")
        );
    }

    #[test]
    fn each_part_of_an_id_counts() {
        let origin = Origin::window(60_000);
        let other = Origin { index: 1, ..origin };
        let ids = [
            FindingId::new(Kind::Change, "a/b", origin, "m"),
            FindingId::new(Kind::Anomaly, "a/b", origin, "m"),
            FindingId::new(Kind::Change, "a/c", origin, "m"),
            FindingId::new(Kind::Change, "a/b", other, "m"),
            FindingId::new(Kind::Change, "a/b", Origin::window(60_001), "m"),
            FindingId::new(Kind::Change, "a/b", origin, "n"),
        ];
        for (i, id) in ids.iter().enumerate() {
            assert_eq!(ids.iter().position(|other| other == id), Some(i));
            let uuid = uuid::Uuid::from_bytes(*id.as_bytes());
            assert_eq!(
                (uuid.get_version_num(), uuid.get_variant()),
                (8, uuid::Variant::RFC4122)
            );
            assert_eq!(id.to_string(), uuid.to_string());
        }
    }

    #[test]
    fn severity_grows_with_surprise_and_duration_and_keeps_its_floor() {
        assert_eq!(Severity::of(3.0, 1.0, Severity::Low), Severity::Low);
        assert_eq!(Severity::of(3.0, 60.0, Severity::Low), Severity::Medium);
        assert_eq!(Severity::of(8.0, 60.0, Severity::Low), Severity::High);
        assert_eq!(
            Severity::of(f64::NAN, f64::NAN, Severity::Medium),
            Severity::Medium
        );
    }

    proptest! {
        #[test]
        fn any_number_gives_json_that_reads_back(value in proptest::num::f64::ANY) {
            let read: serde_json::Value = serde_json::from_slice(&finding(value).json()).expect("valid JSON");
            let back = read["value"].as_f64();
            prop_assert_eq!(back, value.is_finite().then_some(value));
        }
    }
}
