//! The superuser's session.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};

use super::{Fault, Settings};

/// An open session of the superuser on one database.
pub(super) struct Admin<'c> {
    pub(super) settings: &'c Settings,
    options: PgConnectOptions,
}

impl<'c> Admin<'c> {
    pub(super) fn new(settings: &'c Settings) -> Result<Self, Fault> {
        if settings.databases.admin_url.is_empty() {
            return Err(Fault::Invalid(
                "databases.admin_url is not set: set it to the URL of a superuser, which creates databases and roles \
                 (PULSEGATE_DATABASES__ADMIN_URL)"
                    .to_owned(),
            ));
        }
        let options: PgConnectOptions = settings
            .databases
            .admin_url
            .expose()
            .parse()
            .map_err(|_| Fault::Invalid("databases.admin_url is not a PostgreSQL URL".to_owned()))?;
        let options = options
            .application_name("pulsegate topology")
            .options([(
                "statement_timeout",
                settings.topology.request_time_max_ms.to_string(),
            )])
            .disable_statement_logging();
        Ok(Self { settings, options })
    }

    /// Where the logins of services differ from the superuser's is in user, password and database.
    pub(super) const fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// Full name of the database or role `name`, with the prefix.
    pub(super) fn full(&self, name: &str) -> String {
        format!("{}{name}", self.settings.databases.prefix)
    }

    /// Connects to the superuser's own database, or to `database` (its full name).
    pub(super) async fn connect(&self, database: Option<&str>) -> Result<PgConnection, Fault> {
        let options = match database {
            Some(database) => self.options.clone().database(database),
            None => self.options.clone(),
        };
        let time_max = Duration::from_millis(self.settings.topology.request_time_max_ms);
        match tokio::time::timeout(time_max, options.connect()).await {
            Ok(connected) => connected.map_err(|error| Fault::postgres("connecting to PostgreSQL", &error)),
            Err(_) => Err(Fault::Unreachable {
                service: "PostgreSQL",
                reason: "no answer in time".to_owned(),
            }),
        }
    }
}

/// Runs one statement that was built from quoted names ([`crate::io::postgres::is_name`]).
pub(super) async fn run(connection: &mut PgConnection, sql: String) -> Result<(), Fault> {
    // A statement can hold a password's verifier, so a failure names only its first three words.
    let action: String = sql.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    match connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Fault::postgres(action, &error)),
    }
}
