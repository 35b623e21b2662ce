//! Edition of TimescaleDB that the server runs.

use sqlx::PgConnection;

use crate::io::postgres::DatabaseError;
use crate::telemetry::metrics::Edition;

/// Queries the server.
///
/// # Errors
/// If the database has no TimescaleDB, or one with an unknown licence.
pub async fn ask(connection: &mut PgConnection) -> Result<Edition, DatabaseError> {
    let licence: Option<String> = sqlx::query_scalar("select current_setting('timescaledb.license', true)")
        .fetch_one(connection)
        .await
        .map_err(|error| DatabaseError::new("analytics", "asking for TimescaleDB's edition", &error))?;
    match licence.as_deref() {
        Some("apache") => Ok(Edition::Apache),
        Some("timescale") => Ok(Edition::Community),
        Some(other) => Err(DatabaseError::Invalid(format!(
            "TimescaleDB has the unsupported licence `{other}`; set timescaledb.license to `apache` or `timescale`"
        ))),
        None => Err(DatabaseError::Invalid(
            "the analytics database has no TimescaleDB: set shared_preload_libraries = 'timescaledb' on the \
             server and run `pulsegate topology apply`"
                .to_owned(),
        )),
    }
}
