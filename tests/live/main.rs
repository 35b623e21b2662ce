//! The gate and the watch as their users run them: the real binary with a real Kafka and real databases. The gate is
//! judged by the oracle, which shares no code with it; the watch by the rows it wrote.

mod audit;
mod bad_input;
mod consumer;
mod faults;
mod lanes;
mod leaks;
mod main_path;
mod open;
mod schemas;
mod series;
mod stored;
mod watch;
mod watch_faults;
mod watch_physio;
