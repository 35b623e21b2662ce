//! The simulation of the gate.
pub mod bug;
