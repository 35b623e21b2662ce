//! The watch's tables in a real TimescaleDB: everything is stored exactly once, whatever fails of the connection, the
//! server or the writer; and equally in both editions.

mod cohorts;
mod editions;
mod faults;
mod fixture;
mod groups;
mod jobs;
mod kpis;
mod rollouts;
mod sink;
