//! Notes from other implementations, our own notes, and invalid ones.

use proptest::prelude::*;

use super::*;

fn key(number: u8) -> LogKey {
    LogKey::new(&[number; 32])
}

fn checkpoint(size: u64) -> Checkpoint {
    Checkpoint {
        origin: "pulsegate.audit/test/raw/3".to_owned(),
        size,
        root: [9; 32],
    }
}

/// Test note of the package `golang.org/x/mod/sumdb/note`, which the specification is based on.
#[test]
fn the_reference_note_verifies() {
    let text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    let note = format!(
        "{text}\n\u{2014} PeterNeumann \
         x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    );
    let verifier = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let encoded = verifier.rsplit('+').next().expect("three parts");
    let bytes = STANDARD.decode(encoded).expect("base64");
    let key = PublicKey::new(bytes[1..].try_into().expect("32 bytes")).expect("a key");
    assert_eq!(key.verifier_key("PeterNeumann"), verifier);

    let parsed = Note::parse(note.as_bytes()).expect("well-formed");
    assert_eq!(parsed.to_string(), note);
    let keys = [key];
    assert_eq!(parsed.signatures[0].verify(&parsed.text, &keys), Some(Ok(None)));
    assert_eq!(
        parsed.signatures[0].verify("another text\n", &keys),
        Some(Err(NoteError::BadSignature))
    );
}

/// Example notes of the specifications: text with empty lines, a checkpoint with and without a cosignature.
#[test]
fn the_examples_of_the_specifications_are_parsed() {
    let poem = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n\
                \u{2014} quasimodo.example/salvatore \
                NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";
    let parsed = Note::parse(poem.as_bytes()).expect("a note");
    assert_eq!(parsed.to_string(), poem);
    assert_eq!(
        parsed.open(&[key(1).public()]),
        Err(NoteError::Malformed("the tree size is not a decimal number"))
    );

    let sofa = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
                \u{2014} example.com/behind-the-sofa \
                Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
                \u{2014} witness.example.com/w1 \
                jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";
    let parsed = Note::parse(sofa.as_bytes()).expect("a note");
    assert_eq!(parsed.to_string(), sofa);
    let read = Checkpoint::parse(&parsed.text).expect("a checkpoint");
    assert_eq!(
        (read.origin.as_str(), read.size),
        ("example.com/behind-the-sofa", 20_852_163)
    );
    assert_eq!(read.text(), parsed.text);
    assert_eq!(parsed.signatures[1].bytes.len(), 8 + 64, "time and signature");
    assert_eq!(parsed.open(&[key(1).public()]), Err(NoteError::UnknownKey));
}

#[test]
fn only_a_trusted_key_opens_a_checkpoint() {
    let note = key(1).sign(&checkpoint(7), 1_800_000_000).expect("signed");
    let signed = Signed {
        checkpoint: checkpoint(7),
        signed_s: Some(1_800_000_000),
    };
    assert_eq!(note.open(&[key(2).public(), key(1).public()]), Ok(signed));
    assert_eq!(note.open(&[key(2).public()]), Err(NoteError::UnknownKey));
    assert_eq!(note.open(&[]), Err(NoteError::UnknownKey));
    let mut moved = note.clone();
    moved.text = checkpoint(8).text();
    assert_eq!(moved.open(&[key(1).public()]), Err(NoteError::BadSignature));

    let plain = Note {
        signatures: vec![note.signatures[0].clone()],
        ..note.clone()
    };
    assert_eq!(
        plain.open(&[key(1).public()]).map(|signed| signed.signed_s),
        Ok(None)
    );
    let mut redated = note;
    redated.signatures[1].bytes[7] ^= 1;
    assert_eq!(
        redated.open(&[key(1).public()]),
        Err(NoteError::BadSignature),
        "one valid signature does not excuse an invalid one"
    );
}

#[test]
fn an_invalid_checkpoint_is_refused() {
    let root = STANDARD.encode([9; 32]);
    for text in [
        String::new(),
        "\n1\n".to_owned() + &root + "\n",
        format!("o\n01\n{root}\n"),
        format!("o\n+1\n{root}\n"),
        format!("o\n-1\n{root}\n"),
        format!("o\n18446744073709551616\n{root}\n"),
        format!("o\n1\n{}\n", STANDARD.encode([9; 31])),
        "o\n1\nnot base64\n".to_owned(),
        format!("o\n1\n{root}\n\nx\n"),
    ] {
        assert!(Checkpoint::parse(&text).is_err(), "{text}");
    }
    assert!(Checkpoint::parse(&format!("o\n1\n{root}\nan extension\n")).is_ok());
    for origin in ["", "two words", "a+b", "line\nbreak"] {
        let checkpoint = Checkpoint {
            origin: origin.to_owned(),
            ..checkpoint(1)
        };
        assert!(key(1).sign(&checkpoint, 0).is_err(), "{origin}");
    }
}

#[test]
fn an_invalid_note_is_refused() {
    let good = key(1).sign(&checkpoint(7), 0).expect("signed").to_string();
    let line = good.lines().last().expect("a signature").to_owned() + "\n";
    let text = checkpoint(7).text();
    for bad in [
        String::new(),
        "\n".to_owned(),
        text.clone(),
        format!("{text}\n"),
        good.trim_end().to_owned(),
        good.replace('\u{2014}', "-"),
        good.replace("test", "te\tst"),
        format!(
            "{text}\n\u{2014} two words {}",
            line.rsplit(' ').next().expect("base64")
        ),
        format!("{text}\n\u{2014} a AAAAAA==\n"),
        format!("{text}\n{}", line.repeat(SIGNATURES_MAX + 1)),
        format!("{}{good}", "x\n".repeat(NOTE_BYTES_MAX)),
    ] {
        assert!(Note::parse(bad.as_bytes()).is_err(), "{bad:.200}");
    }
    assert!(Note::parse(b"\xFF\n\n").is_err());
    let many = format!("{text}\n{}", line.repeat(SIGNATURES_MAX));
    assert!(Note::parse(many.as_bytes()).is_ok());
}

/// Cloudflare's `signed_note`, a port of the Go package, verifies our notes.
#[test]
fn another_implementation_verifies_our_notes() {
    use signed_note::{Note as Theirs, StandardVerifier, VerifierList};
    let written = key(5).sign(&checkpoint(u64::MAX), 1_800_000_000).expect("signed");
    let theirs = Theirs::from_bytes(written.to_string().as_bytes()).expect("well-formed for them");
    let verifier = |number| {
        let text = key(number).public().verifier_key(&checkpoint(0).origin);
        VerifierList::new(vec![Box::new(
            StandardVerifier::new(&text).expect("a verifier key"),
        )])
    };
    let (verified, other) = theirs.verify(&verifier(5)).expect("verified");
    assert_eq!(
        (verified.len(), other.len()),
        (1, 1),
        "the cosignature has a type that signed_note does not support"
    );
    assert!(theirs.verify(&verifier(6)).is_err());
}

proptest! {
    #[test]
    fn a_signed_checkpoint_opens_and_any_change_is_detected(
        size in any::<u64>(), root in any::<[u8; 32]>(), signed_s in any::<u64>(), at in any::<prop::sample::Index>(), bit in 0_u8..8,
    ) {
        let checkpoint = Checkpoint { size, root, ..checkpoint(0) };
        let keys = [key(3).public()];
        let text = key(3).sign(&checkpoint, signed_s).expect("signed").to_string();
        let opened = Note::parse(text.as_bytes()).expect("a note").open(&keys);
        prop_assert_eq!(opened, Ok(Signed { checkpoint, signed_s: Some(signed_s) }));
        let mut changed = text.clone().into_bytes();
        let at = at.index(changed.len());
        changed[at] ^= 1 << bit;
        // A change in a signature's name or key id makes its key unknown; the other signature still covers the text.
        if let Ok(signed) = Note::parse(&changed).and_then(|note| note.open(&keys)) {
            prop_assert_eq!((signed.checkpoint.size, signed.checkpoint.root), (size, root));
            prop_assert!(signed.signed_s.is_none() || signed.signed_s == Some(signed_s));
        }
    }

    #[test]
    fn arbitrary_notes_do_not_panic_and_are_written_as_they_were_read(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[a-z0-9\n \u{2014}=+/]{0,200}") {
        for bytes in [bytes.as_slice(), text.as_bytes(), format!("{text}\n\n\u{2014} a AAAAAAA=\n").as_bytes()] {
            if let Ok(note) = Note::parse(bytes) {
                let written = note.to_string();
                prop_assert_eq!(written.as_bytes(), bytes);
                prop_assert!(note.open(&[key(1).public()]).is_err());
            }
        }
    }
}
