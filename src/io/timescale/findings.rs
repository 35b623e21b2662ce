//! Storage of findings: rows of their table, and documents in the outbox of their topic.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use sqlx::PgConnection;

use super::rows::place;
use pulsegate_detect::finding::Finding;

/// Greatest age of a finding, in milliseconds: nothing is kept longer than ten years.
const KEEP_MS: i64 = 3_650 * 86_400_000;

/// Derives the columns from the document, so that table and topic cannot differ. Only new findings go to the topic.
const STORE: &str = "
with given as (
    select n, time_ms, document::json as d from unnest($1::text[], $2::bigint[]) with ordinality as g (document, time_ms, n)
), stored as (
    insert into findings (time, id, kind, series, device, metric, detected_at, value, unit, expected_low, expected_high,
                          direction, effect, surprise, severity, reason, baseline_n, baseline_age, model, notify, group_id,
                          origin_partition, origin_offset, origin_index, document)
    select to_timestamp(time_ms / 1000.0), (d->>'id')::uuid, d->>'kind', d->>'series', d->>'device', d->>'metric',
           to_timestamp((d->>'detected_ms')::bigint / 1000.0), (d->>'value')::float8, d->>'unit',
           (d->'expected'->>0)::float8, (d->'expected'->>1)::float8, d->>'direction', (d->>'effect')::float8,
           (d->>'surprise')::float8, d->>'severity', d->>'reason', (d->>'baseline_n')::bigint,
           (d->>'baseline_age_ms')::bigint * interval '1 ms', d->>'model', (d->>'notify')::boolean, (d->>'group')::uuid,
           (d->'origin'->>'partition')::integer, (d->'origin'->>'offset')::bigint, (d->'origin'->>'index')::bigint, d
    from given order by n
    on conflict do nothing
    returning time, id, kind, series, document
)
insert into outbox (time, id, key, document, due)
select time, id, series, convert_to(document::text, 'UTF8'),
       now() + case when kind in ('anomaly', 'fleet') then $3 * interval '1 second' else interval '0' end
from stored
returning id::text";

/// Stores the findings that are not stored yet, and puts them into the outbox, where anomalies and their groups wait
/// for the given time. Returns the ids of the new ones.
pub(super) async fn store(
    connection: &mut PgConnection,
    findings: &[Finding],
    wait: Duration,
) -> Result<HashSet<String>, sqlx::Error> {
    let documents: Vec<String> = findings.iter().map(document).collect();
    let times: Vec<i64> = findings
        .iter()
        .map(|finding| place(finding.time_ms, finding.detected_ms, KEEP_MS))
        .collect();
    let new: Vec<String> = sqlx::query_scalar(STORE)
        .bind(documents)
        .bind(times)
        .bind(wait.as_secs_f64())
        .fetch_all(connection)
        .await?;
    Ok(new.into_iter().collect())
}

/// Serializes the finding. PostgreSQL cannot hold a NUL in a text, so NULs are replaced first: a finding that the
/// database refuses would hold its partition for ever.
fn document(finding: &Finding) -> String {
    let texts = [&finding.series, &finding.metric, &finding.unit, &finding.reason];
    let cohort = finding
        .cohort
        .iter()
        .flat_map(|cohort| [&cohort.firmware, &cohort.model]);
    let clean = if texts.into_iter().chain(cohort).any(|text| text.contains('\0')) {
        Cow::Owned(without_nul(finding.clone()))
    } else {
        Cow::Borrowed(finding)
    };
    // JSON is UTF-8.
    String::from_utf8(clean.json()).unwrap_or_default()
}

fn without_nul(mut finding: Finding) -> Finding {
    let cohort = finding
        .cohort
        .iter_mut()
        .flat_map(|cohort| [&mut cohort.firmware, &mut cohort.model]);
    let texts = [
        &mut finding.series,
        &mut finding.metric,
        &mut finding.unit,
        &mut finding.reason,
    ];
    for text in texts.into_iter().chain(cohort) {
        *text = text.replace('\0', "\u{fffd}");
    }
    finding
}
