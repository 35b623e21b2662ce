//! Jobs that read all devices together, and their findings.

use crate::fixture::{TOPIC, analytics, batch, finding, number, readings, superuser, with_databases};

#[tokio::test]
async fn a_job_reads_the_minutes_and_stores_what_it_found_once() {
    with_databases(
        "jobrun",
        |_| {},
        |config| async move {
            let analytics = analytics(&config).await;
            let claim = analytics.claim(TOPIC, 3).await.expect("claimed");
            let sent = readings(0, 1_000);
            analytics.write(&batch(&claim, &sent)).await.expect("written");
            analytics.roll_up().await.expect("rolled up");
            let first = sent[0].time_ms / 60_000;
            let minutes = analytics.fleet_minutes(first, first + 60).await.expect("read");
            assert_eq!(minutes.iter().map(|minute| minute.readings).sum::<u64>(), 1_000);
            assert_eq!(minutes.iter().map(|minute| minute.good).sum::<u64>(), 980);
            assert!(minutes.is_sorted_by_key(|minute| minute.minute) && minutes[0].minute == first);
            assert_eq!(analytics.fleet_minutes(first, first).await.expect("read"), []);

            let lock = analytics
                .lock("pulsegate regression")
                .await
                .expect("asked")
                .expect("no other process holds the lock");
            assert!(
                analytics
                    .lock("pulsegate regression")
                    .await
                    .expect("asked")
                    .is_none()
            );
            assert!(analytics.lock("pulsegate other").await.expect("asked").is_some());
            let store = async |numbers: [i64; 2]| {
                let found = numbers.map(finding).to_vec();
                analytics.store_findings(found).await.expect("stored")
            };
            assert_eq!(store([1, 2]).await, [finding(1), finding(2)]);
            assert_eq!(store([2, 3]).await, [finding(3)], "only the new finding");
            let mut admin = superuser(&config).await;
            assert_eq!(number(&mut admin, "select count(*) from outbox").await, 3);
            drop(lock);
            // The connection closes asynchronously.
            let began = std::time::Instant::now();
            while analytics
                .lock("pulsegate regression")
                .await
                .expect("asked")
                .is_none()
            {
                assert!(began.elapsed().as_secs() < 30, "still locked");
                tokio::task::yield_now().await;
            }
        },
    )
    .await;
}
