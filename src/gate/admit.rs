//! Freshness has passed; here replay and rate are decided on the record clock.
