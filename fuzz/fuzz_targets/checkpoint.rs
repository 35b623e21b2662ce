//! The checkpoint parser never panics, writes back what it read, and opens nothing unsigned.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pulsegate_ledger::note::{Checkpoint, LogKey, Note, Signed};

static KEY: LazyLock<LogKey> = LazyLock::new(|| LogKey::new(&[7; 32]));

fuzz_target!(|data: &[u8]| {
    let keys = [KEY.public()];
    if let Ok(note) = Note::parse(data) {
        assert_eq!(note.to_string().as_bytes(), data);
        assert!(note.open(&keys).is_err(), "an unsigned checkpoint opens");
    }

    // The first bytes select the damage to a checkpoint of the log that the remaining bytes name.
    let [high, low, origin @ ..] = data else { return };
    let Ok(origin) = std::str::from_utf8(origin) else {
        return;
    };
    let checkpoint = Checkpoint {
        origin: origin.to_owned(),
        size: u64::from(*high),
        root: [*low; 32],
    };
    let Ok(signed) = KEY.sign(&checkpoint, 5) else {
        return;
    };
    let mut text = signed.to_string().into_bytes();
    let opened = Note::parse(&text).and_then(|note| note.open(&keys));
    let expected = Signed {
        checkpoint: checkpoint.clone(),
        signed_s: Some(5),
    };
    assert_eq!(opened, Ok(expected), "what was signed is read again");
    let bit = usize::from(u16::from_be_bytes([*high, *low])) % (text.len() * 8);
    text[bit / 8] ^= 1 << (bit % 8);
    if let Ok(other) = Note::parse(&text).and_then(|note| note.open(&keys)) {
        assert_eq!(other.checkpoint, checkpoint, "bit {bit} is not signed");
    }
});
