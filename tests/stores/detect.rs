//! `pulsegate detect score` from the command line: the input rows come out with scores, and errors name the line.

use std::path::Path;

use assert_cmd::Command;

/// Runs the command on these bytes in a directory; returns exit code, standard output, standard error and output file.
fn score(directory: &Path, input: &[u8], options: &[&str]) -> (Option<i32>, String, String, Option<String>) {
    std::fs::write(directory.join("in.csv"), input).expect("writable");
    let output = Command::new(env!("CARGO_BIN_EXE_pulsegate"))
        .current_dir(directory)
        .args(["detect", "score", "--input", "in.csv", "--output", "out.csv"])
        .args(options)
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("answers are UTF-8");
    let written = std::fs::read_to_string(directory.join("out.csv")).ok();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
        written,
    )
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Five-minute rows with small variation, and a spike at row 900.
fn series() -> String {
    let rows = (0..1_000_i64).map(|row| {
        let value = if row == 900 {
            99.5
        } else {
            20.0 + (row * 7 % 11) as f64 / 10.0
        };
        let (day, hour, minute) = (1 + row / 288, row / 12 % 24, row % 12 * 5);
        format!("2026-01-{day:02} {hour:02}:{minute:02}:00,{value}\n")
    });
    std::iter::once("timestamp,value\n".to_owned())
        .chain(rows)
        .collect()
}

#[test]
fn every_row_comes_back_as_it_was_with_a_score() {
    let directory = directory();
    let (code, out, err, written) = score(directory.path(), series().as_bytes(), &[]);
    assert_eq!(code, Some(0), "{err}");
    let written = written.expect("an output file");
    let mut lines = written.lines();
    assert_eq!(lines.next(), Some("timestamp,value,anomaly_score"));
    let mut highest = (0.0, String::new());
    for (line, input) in lines.by_ref().zip(series().lines().skip(1)) {
        let (row, score) = line.rsplit_once(',').expect("three columns");
        assert_eq!(row, input);
        let score: f64 = score.parse().expect("a number");
        assert!((0.0..=1.0).contains(&score), "{line}");
        if score > highest.0 {
            highest = (score, input.to_owned());
        }
    }
    assert_eq!(written.lines().count(), 1_001);
    assert!(highest.1.ends_with(",99.5") && highest.0 > 0.5, "{highest:?}");
    assert!(out.contains("1000 rows") && out.contains("line 902"), "{out}");
}

#[test]
fn the_summary_is_available_as_json() {
    let directory = directory();
    let (code, out, err, _) = score(directory.path(), series().as_bytes(), &["--json"]);
    assert_eq!(code, Some(0), "{err}");
    let summary: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(summary["rows"], 1_000);
    assert_eq!(summary["missing"], 0);
    assert_eq!(summary["highest"]["line"], 902);
    assert_eq!(summary["model"], pulsegate_detect::anomaly::MODEL);
}

#[test]
fn headers_orders_times_and_missing_values_are_understood() {
    let rows = "note,VALUE,timestamp\na,1.5,2026-01-01T00:00:00Z\n\"b,c\",,2026-01-01 00:05:00\n\
                d,NaN,2026-01-01T01:10:00+01:00\ne,-2e3,1767226500\nf,7,1767226800000\n";
    let directory = directory();
    let (code, out, err, written) = score(directory.path(), rows.as_bytes(), &["--json"]);
    assert_eq!(code, Some(0), "{err}");
    let written = written.expect("an output file");
    let begins: Vec<_> = written
        .lines()
        .filter_map(|line| line.rsplit_once(','))
        .map(|(row, _)| row)
        .collect();
    let expected = [
        "timestamp,value",
        "2026-01-01T00:00:00Z,1.5",
        "2026-01-01 00:05:00,",
        "2026-01-01T01:10:00+01:00,NaN",
        "1767226500,-2e3",
        "1767226800000,7",
    ];
    assert_eq!(begins, expected);
    let summary: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(summary["missing"], 2);
    // Without a header the first two columns are used.
    let (code, _, err, written) = score(
        directory.path(),
        b"2026-01-01 00:00:00,1\n2026-01-01 00:05:00,2\n",
        &[],
    );
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(written.expect("an output file").lines().count(), 3);
}

#[test]
fn invalid_rows_are_reported_by_line_and_leave_no_output() {
    let long = format!("timestamp,value\n2026-01-01 00:00:00,1\n{}\n", "9".repeat(20_000));
    let cases: [(&[u8], &str); 7] = [
        (
            b"timestamp,value\n2026-01-01 00:00:00,1\n2026-01-01 00:05:00,SECRET\n",
            "line 3: the value",
        ),
        (b"timestamp,value\nSECRET,1\n", "line 2: the timestamp"),
        (
            b"timestamp,value\n2026-02-30 00:00:00,1\n",
            "line 2: the timestamp",
        ),
        (b"timestamp,value\n2026-01-01 00:00:00\n", "line 2: no value"),
        (b"SECRET,other\n2026-01-01 00:00:00,1\n", "line 1: neither"),
        (
            b"timestamp,value\n2026-01-01 00:00:00,\xff\n",
            "line 2: not UTF-8",
        ),
        (long.as_bytes(), "longer than 16384 bytes"),
    ];
    for (input, problem) in cases {
        let directory = directory();
        let (code, _, err, written) = score(directory.path(), input, &[]);
        assert_eq!(code, Some(1), "{problem}: {err}");
        assert!(err.contains(problem) && !err.contains("SECRET"), "{err}");
        assert_eq!(written, None, "{problem}");
    }
}

#[test]
fn files_that_cannot_be_read_or_written_are_usage_errors() {
    let directory = directory();
    for paths in [["none.csv", "out.csv"], ["in.csv", "none/out.csv"]] {
        std::fs::write(directory.path().join("in.csv"), "timestamp,value\n").expect("writable");
        let output = Command::new(env!("CARGO_BIN_EXE_pulsegate"))
            .current_dir(directory.path())
            .args(["detect", "score", "--input", paths[0], "--output", paths[1]])
            .output()
            .expect("the binary runs");
        assert_eq!(output.status.code(), Some(2));
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("none"),
            "{paths:?}"
        );
    }
}

/// Alerts per day on one person's real wrist heart rate in one-minute means, after the first two days.
fn alerts_a_day(text: &str) -> f64 {
    const MINUTE_S: i64 = 60;
    let (mut sums, mut bounds) = (
        std::collections::BTreeMap::<i64, (f64, f64)>::new(),
        None::<(i64, i64)>,
    );
    for (second, rate) in text.lines().skip(1).filter_map(|line| line.split_once(',')) {
        let second: i64 = second.parse().expect("a time");
        let sum = sums.entry(second / MINUTE_S).or_default();
        *sum = (sum.0 + rate.trim().parse::<f64>().expect("a rate"), sum.1 + 1.0);
        bounds = Some((bounds.map_or(second, |(first, _)| first), second));
    }
    let (first, last) = bounds.expect("rows");
    let from = first / MINUTE_S + 2 * 1_440;
    let mut detector = pulsegate_detect::anomaly::Detector::new();
    let alerts = sums
        .into_iter()
        .map(|(minute, (sum, count))| (minute, detector.observe(minute * MINUTE_S * 1_000, sum / count)))
        .filter(|(minute, score)| *minute >= from && score.score >= pulsegate_detect::anomaly::ALERT)
        .count();
    alerts as f64 * 86_400.0 / (last - first - 2 * 86_400) as f64
}

#[test]
fn real_heart_rates_give_few_alerts() {
    let Some(folder) = pulsegate_testkit::skip::recordings() else {
        return;
    };
    for person in ["2022484408", "4558609924", "7007744171"] {
        let file = folder.join(format!("fitbit_hr_{person}.csv"));
        let text = std::fs::read_to_string(&file).expect("readable");
        let alerts = alerts_a_day(&text);
        assert!(alerts <= 0.5, "{person}: {alerts:.2} alerts per day");
    }
}
