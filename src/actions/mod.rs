//! What an operator may do, with its entry in the audit log first. Each action takes the configuration and plain
//! arguments, and returns its result: parsing and printing are the callers'.

mod audited;
pub mod device;
pub mod open;
pub mod schema;
pub mod topology;

pub use audited::Audited;
