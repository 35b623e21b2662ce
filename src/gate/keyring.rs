//! The device keys that a gate knows, as one immutable snapshot.
