//! Connections of one role to one database: how many, how long a request waits for one, and closing those that were
//! left in the middle of a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{PgConnection, Postgres};

use super::config::Access;
use super::error::DatabaseError;
use super::logins;
use crate::telemetry::metrics::PoolStatistics;
use pulsegate_settings::Secret;

/// A database and a role that connects to it.
pub struct Who<'c> {
    /// Name of the database in errors and in the configuration: `analytics`.
    pub database: &'static str,
    /// Service role without prefix, such as `watch_analytics`.
    pub role: &'static str,
    /// Configured URL; if empty, the role's login file is used.
    pub url: &'c Secret,
    /// Minimum and maximum number of connections.
    pub connections: (u32, u32),
}

#[derive(Default)]
struct Counts {
    acquired: AtomicU64,
    timed_out: AtomicU64,
    waited_us: AtomicU64,
}

/// A pool of one role's connections.
#[derive(Clone)]
pub struct Pool {
    database: &'static str,
    pool: PgPool,
    counts: Arc<Counts>,
    request_time_max: Duration,
}

impl Pool {
    /// Connects with the role's login file, or with the configured URL.
    pub async fn connect(access: &Access, who: Who<'_>) -> Result<Self, DatabaseError> {
        let Who {
            database,
            role,
            url,
            connections: (min, max),
        } = who;
        let options = logins::options(access, database, role, url)
            .map_err(|error| DatabaseError::Invalid(error.to_string()))?;
        let request_ms = access.request_time_max_ms;
        let options = options.options([
            ("statement_timeout", request_ms.to_string()),
            // Locks of a worker that stopped in mid-transaction are released after this time.
            ("idle_in_transaction_session_timeout", request_ms.to_string()),
        ]);
        let pool = PgPoolOptions::new()
            .min_connections(min)
            .max_connections(max)
            .acquire_timeout(Duration::from_millis(access.acquire_time_max_ms))
            .connect_with(options)
            .await
            .map_err(|error| DatabaseError::new(database, "connecting", &error))?;
        Ok(Self {
            database,
            pool,
            counts: Arc::default(),
            request_time_max: Duration::from_millis(request_ms),
        })
    }

    /// Runs `request` on a connection within the configured time limit.
    ///
    /// A request that failed, timed out or was dropped may have left its connection in any state, such as in the middle
    /// of a COPY; that connection is closed, which ends its transaction.
    pub async fn ask<T, E: From<DatabaseError>>(
        &self,
        action: &'static str,
        request: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        self.ask_for(self.request_time_max, action, request).await
    }

    /// As [`Self::ask`], with another time limit. The request itself must change the server's limit.
    pub async fn ask_for<T, E: From<DatabaseError>>(
        &self,
        time_max: Duration,
        action: &'static str,
        request: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut lease = self.lease(action).await?;
        match tokio::time::timeout(time_max, request(lease.connection())).await {
            Ok(Ok(answer)) => {
                lease.give_back();
                Ok(answer)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(DatabaseError::late(self.database, action, time_max).into()),
        }
    }

    /// Takes a connection out of the pool for as long as needed.
    pub async fn lease(&self, action: &'static str) -> Result<Lease, DatabaseError> {
        let began = Instant::now();
        let acquired = self.pool.acquire().await;
        let waited = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counts.acquired.fetch_add(1, Ordering::Relaxed);
        self.counts.waited_us.fetch_add(waited, Ordering::Relaxed);
        if matches!(acquired, Err(sqlx::Error::PoolTimedOut)) {
            self.counts.timed_out.fetch_add(1, Ordering::Relaxed);
        }
        match acquired {
            Ok(connection) => Ok(Lease {
                connection,
                in_order: false,
            }),
            Err(error) => Err(DatabaseError::new(self.database, action, &error)),
        }
    }

    /// Name of the database.
    pub const fn database(&self) -> &'static str {
        self.database
    }

    /// Makes errors of this database that name the action.
    pub fn failed(&self, action: &'static str) -> impl Fn(sqlx::Error) -> DatabaseError + Copy + use<> {
        let database = self.database;
        move |error| DatabaseError::new(database, action, &error)
    }

    /// Usage of the pool.
    pub fn statistics(&self) -> PoolStatistics {
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        PoolStatistics {
            used: self.pool.size().saturating_sub(idle),
            idle,
            max: self.pool.options().get_max_connections(),
            acquired: self.counts.acquired.load(Ordering::Relaxed),
            timed_out: self.counts.timed_out.load(Ordering::Relaxed),
            waited: Duration::from_micros(self.counts.waited_us.load(Ordering::Relaxed)),
        }
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Runs one step of a request on a connection outside any pool, within a time limit: the server's own limit does not help
/// while the server is unreachable.
pub async fn within<T>(
    time_max: Duration,
    database: &'static str,
    action: &'static str,
    step: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DatabaseError> {
    match tokio::time::timeout(time_max, step).await {
        Ok(answer) => answer.map_err(|error| DatabaseError::new(database, action, &error)),
        Err(_) => Err(DatabaseError::late(database, action, time_max)),
    }
}

/// A connection that is closed when dropped, unless it is given back.
pub struct Lease {
    connection: PoolConnection<Postgres>,
    in_order: bool,
}

impl Lease {
    /// The underlying connection.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Returns the connection to the pool; nothing may be left open on it.
    fn give_back(mut self) {
        self.in_order = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.in_order {
            self.connection.close_on_drop();
        }
    }
}
