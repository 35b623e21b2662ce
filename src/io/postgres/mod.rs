//! PostgreSQL: one pool, one error with one classifier, one way to claim a partition and to step its offset, and COPY.

mod config;
pub mod copy;
mod error;
pub mod logins;
pub mod offsets;
mod pool;

pub use config::{Access, Config, check_url, is_name};
pub use error::{DatabaseError, WriteError, diagnose};
pub use pool::{Lease, Pool, Who, within};
