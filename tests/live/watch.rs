//! The watch end to end, from the clean topic to the databases.

use pulsegate_loadtest::fleet::Hostile;
use serde_json::{Value, json};
use sqlx::Row as _;

use crate::main_path::fleet;
use crate::stored::{
    CleanTopic, count, counted, event, event_of, everything_once, now_ms, query, told, wait_until_stored,
};
use pulsegate_testkit::wait::wait_for;
use pulsegate_testkit::world::in_a_world;

#[test]
fn everything_that_a_gate_lets_through_is_stored_once_and_audited() {
    in_a_world("whole", "", |world| {
        let mut fleet = fleet(world, 100, Hostile::some());
        world.import(&fleet);
        world.produce(&mut fleet, 4_000);
        let (mut gate, mut watch) = (world.gate("one"), world.watch("one"));
        world.settle(&mut [&mut gate]);
        let stored = everything_once(world);
        assert!(stored.len() > 10_000, "{} readings", stored.len());
        watch.expect_running();
        assert_eq!(
            count(
                world,
                "analytics",
                "select count(*) from readings where metric = ''"
            ),
            0
        );
        assert_eq!(
            count(world, "analytics", "select count(distinct device) from readings"),
            count(
                world,
                "analytics",
                "select count(distinct device) from device_version"
            )
        );
        wait_for("the ledger to be audited", || {
            count(
                world,
                "audit",
                "select count(*) from audit_entry where lane <> 'administration'",
            ) > 0
        });
        wait_for("the watch to catch up", || {
            let metrics = watch.get("/metrics").expect("metrics").1;
            let mut lags = metrics
                .lines()
                .filter(|line| line.starts_with("pulsegate_lane_lag_"));
            lags.clone().count() == 2 * 3 * world.partitions() as usize
                && lags.all(|line| line.ends_with(" 0"))
        });
        let (_, metrics) = watch.get("/metrics").expect("metrics");
        for line in [
            "pulsegate_timescale_edition{edition=\"apache\"} 1",
            "pulsegate_workers_joined 4",
            "pulsegate_sink_rows_count{database=\"analytics\"}",
            "pulsegate_sink_rows_count{database=\"operations\"}",
        ] {
            assert!(metrics.contains(line), "{line} is not in\n{metrics}");
        }
        assert!(gate.terminate().success() && watch.terminate().success());

        // Outcomes in the ledger are counted once, whichever watch counts them, and the first run of the job in the
        // next watch computes KPIs from them.
        let watch = world.watch("two");
        let report = world.judged_good(&fleet);
        let records = report.total.records as i64;
        wait_for("the KPIs", || {
            let throughput =
                "select coalesce(sum(value), 0)::bigint from kpi_minute where kpi = 'throughput'";
            count(world, "operations", throughput) >= records
        });
        let settled = counted(world);
        assert_eq!(settled, told(world));
        assert_eq!(settled.values().sum::<i64>(), records);
        assert!(settled.len() > 5, "clean, and several reasons: {settled:?}");
        let rejected = "select round(sum(value * records))::bigint from kpi_minute where kpi = 'reject_rate'";
        let not_rejected = ["clean", "duplicate"].map(|outcome| settled.get(outcome).copied().unwrap_or(0));
        assert_eq!(
            count(world, "operations", rejected),
            records - not_rejected.iter().sum::<i64>()
        );
        let slow =
            "select count(*) from kpi_minute where kpi = 'latency_seconds' and not value between 0 and 600";
        assert_eq!(count(world, "operations", slow), 0);
        assert!(watch.terminate().success());
    });
}

#[test]
fn bad_clean_records_are_stored_as_what_they_are() {
    in_a_world("watch_bad", "", |world| {
        let (clean, now) = (CleanTopic::of(world), now_ms());
        let heart = |value: f64| [("heart_rate", value)];
        clean.send(0, &event(0, now, "1", &heart(61.0)));
        clean.send(0, b"no event");
        clean.send(0, b"");
        clean.send(0, &event(0, 0, "1", &heart(61.0)));
        clean.send(0, &event(0, 4_102_444_800_000, "1", &heart(61.0)));
        clean.send(
            0,
            &event(
                0,
                now + 1,
                "1",
                &[("heart_rate", f64::MAX), ("hæmoglobin", 5e-324)],
            ),
        );
        let many: Vec<Value> = (0..10_000)
            .map(|index| json!({"metric": "steps", "value": index % 7, "offset_ms": index}))
            .collect();
        clean.send(0, &event_of(0, now + 2, "1", &Value::Array(many)));
        // Written with an older and with a newer schema.
        clean.send(1, &older());
        let mut newer: Value = serde_json::from_slice(&event(2, now, "1", &heart(62.0))).expect("JSON");
        newer["posture"] = json!({"lying": true});
        clean.send(2, newer.to_string().as_bytes());
        // An Avro value with an unknown schema.
        clean.send(2, b"\xc3\x01\x01\x02\x03\x04\x05\x06\x07\x08abc");
        clean.send(2, b"\x00\x00\x00\x00\x07abc");
        clean.flush();
        let watch = world.watch("one");
        wait_until_stored(world);
        let by_quality = query(
            world,
            "analytics",
            "select name, count(*) from readings join quality on code = quality group by 1 order by 1",
        );
        let by_quality: Vec<(String, i64)> = by_quality.iter().map(|row| (row.get(0), row.get(1))).collect();
        let wanted = [
            ("clock_skew", 2),
            ("good", 10_003),
            ("implausible", 1),
            ("unknown_metric", 1),
        ];
        assert_eq!(by_quality, wanted.map(|(name, count)| (name.to_owned(), count)));
        let unreadable = query(
            world,
            "analytics",
            "select origin_partition, origin_offset from findings where series like 'clean/%' order by 1, 2",
        );
        let unreadable: Vec<(i32, i64)> = unreadable.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(unreadable, [(0, 1), (0, 2), (2, 1), (2, 2)]);
        assert!(watch.terminate().success());
    });
}

fn older() -> Vec<u8> {
    let mut older: Value = serde_json::from_slice(&event(1, now_ms(), "1", &[("spo2", 97.0)])).expect("JSON");
    older.as_object_mut().expect("an object").remove("firmware");
    older.to_string().into_bytes()
}
