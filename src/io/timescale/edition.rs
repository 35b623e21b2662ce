//! Which edition of TimescaleDB the server runs.

use sqlx::PgConnection;

use super::TimescaleError;

/// An edition of TimescaleDB, by what its licence lets it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edition {
    /// Hypertables, and nothing that runs by itself: the watch rolls up and drops what is old.
    Apache,
    /// Columnstore, retention policies and continuous aggregates as well.
    Community,
}

impl Edition {
    /// The name in the table `edition`, in metrics and to people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Apache => "apache",
            Self::Community => "community",
        }
    }

    /// Asks the server.
    ///
    /// # Errors
    /// Where the database has no TimescaleDB, or one with a licence that we do not know.
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
                "TimescaleDB has the licence `{other}`; it must be `apache` or `timescale`"
            ))),
            None => Err(TimescaleError::Invalid(
                "the analytics database has no TimescaleDB: the server needs shared_preload_libraries = 'timescaledb', \
                 and the database `pulsegate topology apply`"
                    .to_owned(),
            )),
        }
    }
}
