//! One record a lane and transaction that accounts for every raw offset.
