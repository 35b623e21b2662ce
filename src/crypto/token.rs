//! Pseudonyms that a shredded salt unlinks.
