//! Limits of the simulated workers: small, so that what happens at a limit happens often.

/// Maximum number of records that a call delivers, so that chunks end everywhere.
pub const CHUNK_MAX: usize = 12;
/// Maximum number of rows of a batch, so that batches fill up.
pub const BATCH_ROWS_MAX: usize = 8;
