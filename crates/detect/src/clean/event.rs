//! A clean event with its readings, and why a record is not a clean event.

use std::borrow::Cow;

use crate::reading::Token;

/// Maximum number of readings in one event; the index of a reading is part of its origin.
pub const READINGS_MAX: usize = u16::MAX as usize;

/// A clean event, borrowed from its record where possible.
#[derive(Debug, PartialEq)]
pub struct Event<'v> {
    /// The device's token.
    pub device: Token,
    /// When the device took the readings, by its own clock, in ms since the Unix epoch; `None` if the event has no such
    /// field.
    pub recorded_at_ms: Option<i64>,
    /// The firmware version; empty when unknown.
    pub firmware: Cow<'v, str>,
    /// The device model; empty when unknown.
    pub model: Cow<'v, str>,
    /// The readings, in the order of the event.
    pub readings: Vec<Measured<'v>>,
}

/// One reading as the device sent it.
#[derive(Debug, PartialEq)]
pub struct Measured<'v> {
    /// The name of the metric.
    pub metric: Cow<'v, str>,
    /// The value, in `unit`; always finite.
    pub value: f64,
    /// The UCUM unit; `None` means the metric's own.
    pub unit: Option<Cow<'v, str>>,
    /// The quality that the device reports, such as `good`; `None` if it reports none.
    pub quality: Option<Cow<'v, str>>,
    /// Milliseconds after `recorded_at_ms`.
    pub offset_ms: i64,
}

/// Why a clean record cannot be read. The texts quote nothing from the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// This schema id is not known yet: ask the registry, and pause the partition until it answers.
    #[error("schema id {0} is not known yet")]
    NeedsSchema(u32),
    /// No local schema has this fingerprint, or the registry does not have the id.
    #[error("its schema is unknown")]
    UnknownSchema,
    /// The bytes are not a valid value of the schema.
    #[error("it does not match any clean schema")]
    Malformed,
    /// The device token is missing or invalid.
    #[error("its device token is missing or invalid")]
    NoDevice,
    /// A reading lacks its metric or its value.
    #[error("it has a reading without a metric or without a finite value")]
    NoReading,
    /// The event has more than [`READINGS_MAX`] readings.
    #[error("it has more readings than one event may have")]
    TooMany,
}
