//! The vault database: device keys and subject keys, wrapped.
