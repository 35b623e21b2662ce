use super::*;
use crate::telemetry::health::Health;
use pulsegate_ledger::outcome::Reason;

fn scrape(metrics: &Metrics) -> String {
    let health = Health::new(1);
    let worker = health.worker(0);
    worker.assigned(0);
    worker.lag(0, 1, 0);
    let mut text = metrics.render();
    health.render(&mut text);
    text
}

#[test]
fn the_catalogue_is_what_a_dashboard_may_rely_on() {
    let table: String = Metric::ALL
        .iter()
        .map(|metric| {
            let labels = metric.labels().join(",");
            format!(
                "{:?} {}{{{labels}}}: {}\n",
                metric.kind(),
                metric.name(),
                metric.help()
            )
        })
        .collect();
    insta::assert_snapshot!(table);
}

#[test]
fn names_follow_the_convention() {
    for metric in Metric::ALL {
        let name = metric.name();
        assert!(name.starts_with("pulsegate_"), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind() == Kind::Counter, "{name}");
        assert!(metric.help().ends_with('.'), "{name}");
    }
}

#[test]
fn every_metric_is_there_with_type_and_help_from_the_first_scrape_on() {
    let text = scrape(&Metrics::new());
    for metric in Metric::ALL {
        let (name, kind) = (metric.name(), format!("{:?}", metric.kind()).to_lowercase());
        assert!(
            text.contains(&format!("# TYPE {name} {kind}\n")),
            "{name} has no type in\n{text}"
        );
        assert!(
            text.contains(&format!("# HELP {name} {}\n", metric.help())),
            "{name} has no help in\n{text}"
        );
    }
}

#[test]
fn a_committed_batch_is_counted_by_outcome_and_stage() {
    assert!(builder().is_ok());
    let metrics = Metrics::new();
    let mut batch = Committed {
        bytes: 2800,
        transaction: Duration::from_millis(80),
        ..Committed::default()
    };
    batch.outcomes[Outcome::Clean.index()] = 9;
    batch.outcomes[Outcome::from(Reason::Stale).index()] = 1;
    batch.stages[Stage::Seal as usize] = Duration::from_millis(30);
    metrics.committed(&batch);
    metrics.aborted(AbortCause::Fenced);
    let text = scrape(&metrics);
    for line in [
        "pulsegate_records_total{outcome=\"clean\"} 9\n",
        "pulsegate_records_total{outcome=\"stale\"} 1\n",
        "pulsegate_records_total{outcome=\"duplicate\"} 0\n",
        "pulsegate_batch_records_bucket{le=\"10\"} 1\n",
        "pulsegate_batch_bytes_sum 2800\n",
        "pulsegate_stage_duration_seconds_bucket{stage=\"seal\",le=\"0.05\"} 1\n",
        "pulsegate_stage_duration_seconds_bucket{stage=\"seal\",le=\"0.02\"} 0\n",
        "pulsegate_commits_total 1\n",
        "pulsegate_aborts_total{cause=\"fenced\"} 1\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
