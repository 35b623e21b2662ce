//! Which edition of TimescaleDB the server runs.

use sqlx::PgConnection;

use crate::io::postgres::DatabaseError;
use crate::telemetry::metrics::Edition;

/// Asks the server.
///
/// # Errors
/// Where the database has no TimescaleDB, or one with a licence that we do not know.
pub async fn ask(connection: &mut PgConnection) -> Result<Edition, DatabaseError> {
    let licence: Option<String> = sqlx::query_scalar("select current_setting('timescaledb.license', true)")
        .fetch_one(connection)
        .await
        .map_err(|error| DatabaseError::new("analytics", "asking for TimescaleDB's edition", &error))?;
    match licence.as_deref() {
        Some("apache") => Ok(Edition::Apache),
        Some("timescale") => Ok(Edition::Community),
        Some(other) => Err(DatabaseError::Invalid(format!(
            "TimescaleDB has the licence `{other}`; it must be `apache` or `timescale`"
        ))),
        None => Err(DatabaseError::Invalid(
            "the analytics database has no TimescaleDB: the server needs shared_preload_libraries = 'timescaledb', \
             and the database `pulsegate topology apply`"
                .to_owned(),
        )),
    }
}
