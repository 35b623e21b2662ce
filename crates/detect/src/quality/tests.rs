use super::*;

const TABLE: &str = include_str!("../../../../schemas/metrics.toml");

fn metrics() -> Metrics {
    Metrics::parse(TABLE).expect("the project's own table")
}

fn judge(metric: &str, value: f64, unit: Option<&str>, quality: Option<&str>) -> (f64, Quality) {
    let metrics = metrics();
    let described = metrics
        .find(metric)
        .and_then(|index| metrics.get(index))
        .expect("described");
    described.judge(&Measured {
        metric: metric.to_owned().into(),
        value,
        unit: unit.map(|text| text.to_owned().into()),
        quality: quality.map(|text| text.to_owned().into()),
        offset_ms: 0,
    })
}

#[test]
fn units_are_converted_to_the_metrics_own() {
    let (value, verdict) = judge("body_temperature", 98.6, Some("[degF]"), None);
    assert!((value - 37.0).abs() < 1e-9 && verdict == Quality::Good, "{value}");
    let (value, _) = judge("body_temperature", 310.15, Some("K"), None);
    assert!((value - 37.0).abs() < 1e-9, "{value}");
    assert_eq!(
        judge("heart_rate", 61.0, Some("{beats}/min"), None),
        (61.0, Quality::Good)
    );
    assert_eq!(judge("heart_rate", 1.0, Some("Hz"), None), (60.0, Quality::Good));
    assert_eq!(judge("rr_interval", 0.8, Some("s"), None), (800.0, Quality::Good));
    assert_eq!(judge("spo2", 0.97, Some("1"), None), (97.0, Quality::Good));
    assert_eq!(judge("steps", 12.0, Some("{step}"), None), (12.0, Quality::Good));
    assert_eq!(
        judge("heart_rate", 61.0, Some("Cel"), None),
        (61.0, Quality::UnknownUnit)
    );
    assert_eq!(
        judge("heart_rate", 61.0, Some("bpm"), None),
        (61.0, Quality::UnknownUnit)
    );
    assert_eq!(
        judge("heart_rate", 61.0, Some("}{"), None),
        (61.0, Quality::UnknownUnit)
    );
}

#[test]
fn sentinels_and_implausible_values_are_told_apart() {
    for (value, verdict) in [
        (61.0, Quality::Good),
        (0.0, Quality::Sentinel),
        (255.0, Quality::Sentinel),
        (-1.0, Quality::Sentinel),
        (250.0, Quality::Implausible),
        (f64::MAX, Quality::Implausible),
        (5e-324, Quality::Implausible),
    ] {
        assert_eq!(judge("heart_rate", value, None, None).1, verdict, "{value}");
    }
    // Zero steps is a valid measurement.
    assert_eq!(judge("steps", 0.0, None, None).1, Quality::Good);
    assert_eq!(judge("heart_rate", 61.0, None, Some("good")).1, Quality::Good);
    assert_eq!(
        judge("heart_rate", 61.0, None, Some("uncertain")).1,
        Quality::Uncertain
    );
    assert_eq!(judge("heart_rate", 61.0, None, Some("motion")).1, Quality::Bad);
    assert_eq!(judge("heart_rate", 0.0, None, Some("bad")).1, Quality::Sentinel);
}

#[test]
fn device_times_are_accepted_within_limits() {
    let config = Config::default();
    let now = 1_795_341_600_000;
    assert!(config.believes(now, now) && config.believes(now + 300_000, now));
    assert!(config.believes(now - 90 * 86_400_000, now));
    for time_ms in [0, -1, now + 300_001, 4_102_444_800_000, i64::MIN, i64::MAX] {
        assert!(!config.believes(time_ms, now), "{time_ms}");
    }
}

#[test]
fn a_run_is_stuck_only_when_it_is_long_and_dense() {
    let mut run = Run::default();
    let mut before = None;
    let mut stuck_at = None;
    for minute in 0..40_i64 {
        let now = (minute * 60_000, 61.0);
        if run.observe(before, now, 1_200_000) && stuck_at.is_none() {
            stuck_at = Some(minute);
        }
        before = Some(now);
    }
    assert_eq!(stuck_at, Some(20));
    assert!(
        !run.observe(before, (41 * 60_000, 62.0), 1_200_000),
        "the value changes again"
    );
    // A night without the device is not a flat line.
    let mut run = Run {
        since_ms: 0,
        count: 50,
    };
    assert!(!run.observe(Some((600_000, 61.0)), (30_000_000, 61.0), 1_200_000));
}

#[test]
fn each_kind_of_fault_is_reported_once_per_episode() {
    let mut episode = Episode::default();
    let told: Vec<_> = [
        Quality::Sentinel,
        Quality::Sentinel,
        Quality::Good,
        Quality::Late,
        Quality::Sentinel,
    ]
    .map(|verdict| episode.observe(verdict))
    .into();
    assert_eq!(told, [true, false, false, true, false]);
    for _ in 0..Episode::GOOD_ENDS {
        assert!(!episode.observe(Quality::Good));
    }
    assert!(episode.observe(Quality::Sentinel), "a new episode");
    assert!(!episode.observe(Quality::Uncertain) && !episode.observe(Quality::UnknownMetric));
}

#[test]
fn an_invalid_table_is_rejected_with_the_metric() {
    let refused = |text: &str| Metrics::parse(text).expect_err("refused").to_string();
    assert!(refused("[a]\nunit='/min'\nplausible=[2,1]\n").contains("`a`"));
    assert!(refused("[a]\nunit='furlong'\nplausible=[1,2]\n").contains("`unit`"));
    assert!(refused("[a]\nunit='/min'\n").contains("plausible"));
    assert!(refused("[a]\nunit='/min'\nplausible=[1,2]\ncolour=1\n").contains("colour"));
}

#[test]
fn codes_match_stored_rows_and_names_are_unique() {
    let codes: Vec<_> = Quality::ALL.iter().map(|quality| quality.code()).collect();
    assert_eq!(codes, (0..11).collect::<Vec<_>>());
    let names: std::collections::BTreeSet<_> = Quality::ALL.iter().map(|quality| quality.as_str()).collect();
    assert_eq!(names.len(), Quality::ALL.len());
}
