//! Edition of TimescaleDB that the server runs.

use sqlx::PgConnection;

use super::TimescaleError;

/// An edition of TimescaleDB, determined by its licence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edition {
    /// Hypertables without background jobs: the watch computes rollups and drops old data.
    Apache,
    /// Adds columnstore, retention policies and continuous aggregates.
    Community,
}

impl Edition {
    /// Name in the table `edition`, in metrics and in messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Apache => "apache",
            Self::Community => "community",
        }
    }

    /// Queries the server.
    ///
    /// # Errors
    /// If the database has no TimescaleDB, or one with an unknown licence.
    pub async fn ask(connection: &mut PgConnection) -> Result<Self, TimescaleError> {
        let licence: Option<String> =
            sqlx::query_scalar("select current_setting('timescaledb.license', true)")
                .fetch_one(connection)
                .await
                .map_err(|error| {
                    TimescaleError::new("analytics", "asking for TimescaleDB's edition", &error)
                })?;
        match licence.as_deref() {
            Some("apache") => Ok(Self::Apache),
            Some("timescale") => Ok(Self::Community),
            Some(other) => Err(TimescaleError::Invalid(format!(
                "TimescaleDB has the unsupported licence `{other}`; set timescaledb.license to `apache` or `timescale`"
            ))),
            None => Err(TimescaleError::Invalid(
                "the analytics database has no TimescaleDB: set shared_preload_libraries = 'timescaledb' on the \
                 server and run `pulsegate topology apply`"
                    .to_owned(),
            )),
        }
    }
}
