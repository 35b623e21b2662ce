//! The cost of admitting one record (replay window and rate limit in the record's own time), compared with governor's
//! keyed rate limit alone on its own clock. Both use the same keys in the same order.

use std::num::NonZeroU32;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use governor::clock::{FakeRelativeClock, QuantaClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use pulsegate_core::gate::admit::{Admission, Config, Rate};
use pulsegate_core::gate::verify::{MessageId, Sequence};

const FRESHNESS_MS: i64 = 300_000;
const START_MS: i64 = 1_800_000_000_000;

fn plenty() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(60_000_000)
}

fn admission(devices: u32) -> Admission {
    let rate = Rate {
        events_per_minute: plenty(),
        burst: plenty(),
    };
    Admission::new(
        &Config {
            devices_max: devices,
            webhook_ids_max: u32::MAX,
            rate,
            ..Config::default()
        },
        FRESHNESS_MS,
    )
}

/// Visits the devices in an order that no prefetcher can predict.
fn slots(devices: u32) -> impl Iterator<Item = (u32, u64)> {
    (0_u64..).map(move |turn| {
        (
            ((turn * 2_654_435_761) % u64::from(devices)) as u32,
            turn / u64::from(devices),
        )
    })
}

fn admitting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("admit");
    group.throughput(Throughput::Elements(1));
    for devices in [10_000, 200_000] {
        for (name, batch) in [
            ("replay_and_rate", 0),
            ("replay_and_rate_in_transactions", 10_000),
        ] {
            let (mut lane, mut turn, mut open, mut count) = (admission(devices), slots(devices), None, 0);
            group.bench_function(BenchmarkId::new(name, devices), |bencher| {
                bencher.iter(|| {
                    if batch > 0 && count % batch == 0 {
                        let next = lane.savepoint();
                        if let Some(done) = open.replace(next) {
                            lane.commit_through(done);
                        }
                    }
                    count += 1;
                    let (slot, number) = turn.next().expect("slots never end");
                    let sequence = Sequence {
                        issued_ms: START_MS,
                        id: MessageId::Jws { boot: 1, number },
                    };
                    lane.admit(slot, 0, sequence, START_MS)
                        .expect("every number is new")
                });
            });
        }
        let quota = Quota::per_minute(plenty()).allow_burst(plenty());
        let own_clock: RateLimiter<u64, DashMapStateStore<u64>, QuantaClock, NoOpMiddleware<_>> =
            RateLimiter::dashmap_with_clock(quota, QuantaClock::default());
        let mut turn = slots(devices);
        group.bench_function(BenchmarkId::new("governor_rate_alone", devices), |bencher| {
            bencher.iter(|| {
                let (slot, _) = turn.next().expect("slots never end");
                own_clock.check_key(&u64::from(slot)).is_ok()
            });
        });
        let fake_clock = RateLimiter::dashmap_with_clock(quota, FakeRelativeClock::default());
        let mut turn = slots(devices);
        group.bench_function(
            BenchmarkId::new("governor_rate_alone_fake_clock", devices),
            |bencher| {
                bencher.iter(|| {
                    let (slot, _) = turn.next().expect("slots never end");
                    fake_clock.check_key(&u64::from(slot)).is_ok()
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, admitting);
criterion_main!(benches);
