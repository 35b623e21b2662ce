//! The worker loop, its consumer and its transactions.
