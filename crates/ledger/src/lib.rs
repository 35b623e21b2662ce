#![doc = include_str!("../README.md")]

pub mod entry;
pub mod log;
pub mod merkle;
pub mod note;
pub mod outcome;
pub mod record;
pub mod verify;
