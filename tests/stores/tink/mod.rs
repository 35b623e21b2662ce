//! Stock Tink opens what Pulsegate seals, and the stock AWS Encryption SDK serialises the same context.
//!
//! `make setup` installs both in `.stack/venv`. Without them the test fails rather than being skipped: a format is
//! compatible only as long as other implementations can read it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use pulsegate_core::crypto::envelope::{Context, FieldKey, Nonce};
use pulsegate_core::crypto::keys::Key32;
use serde::{Deserialize, Serialize};

const KEY: [u8; 32] = *b"an AES key that only tests know.";
const KEY_ID: u32 = 0x8A5F_0C01;
const EVENT: &str = "0192f0c1-2345-7abc-8def-0123456789ab";
const TOKEN: &[u8; 22] = b"c3ViamVjdC10b2tlbi0xMg";
const TOPIC: &str = "biometrics.clean";

#[derive(Serialize)]
struct Question<'a> {
    key: String,
    key_id: u32,
    context: BTreeMap<&'a str, &'a str>,
    sealed: String,
}

#[derive(Deserialize)]
struct Answer {
    aad: String,
    plain: Option<String>,
    resealed: Option<String>,
}

/// The Python process that runs the stock libraries.
struct Stock {
    process: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Stock {
    fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = std::env::var_os("PULSEGATE_PYTHON")
            .map_or_else(|| root.join(".stack/venv/bin/python"), PathBuf::from);
        assert!(
            python.exists(),
            "{} is missing: run `make setup` first",
            python.display()
        );
        let mut process = Command::new(python)
            .arg(root.join("tests/stores/tink/oracle.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the oracle starts");
        let questions = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        Self {
            process,
            questions,
            answers,
        }
    }

    fn ask(&mut self, sealed: &[u8], context: &BTreeMap<&str, &str>) -> Answer {
        let context = context.clone();
        let question = Question {
            key: hex(&KEY),
            key_id: KEY_ID,
            context,
            sealed: hex(sealed),
        };
        let mut line = serde_json::to_string(&question).expect("serialisable");
        line.push('\n');
        self.questions
            .as_mut()
            .expect("open")
            .write_all(line.as_bytes())
            .expect("the oracle reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the oracle answers");
        serde_json::from_str(&answer).expect("the oracle answers in JSON; see its error above")
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.questions = None;
        let _ = self.process.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
        .collect()
}

fn place(field: &str) -> BTreeMap<&str, &str> {
    let subject = std::str::from_utf8(TOKEN).expect("text");
    [
        ("env", "local"),
        ("event", EVENT),
        ("field", field),
        ("subject", subject),
        ("topic", TOPIC),
    ]
    .into()
}

/// Our AAD of a field, and the field sealed with it.
fn seal(field: &str, plain: &[u8], iv: u8) -> (Vec<u8>, Vec<u8>) {
    let mut context = Context::new("local", TOPIC).expect("short");
    let mut fields = context.begin(EVENT.as_bytes(), TOKEN).expect("short");
    let aad = fields.at(field.as_bytes()).expect("short");
    let mut sealed = Vec::new();
    let key = FieldKey::new(KEY_ID, Key32::random(KEY));
    key.expand()
        .seal_into(Nonce::from_random([iv; 12]), aad, plain, &mut sealed)
        .expect("a fresh key");
    (aad.to_vec(), sealed)
}

#[test]
fn stock_tink_opens_our_fields_and_we_open_its_own() {
    let mut stock = Stock::start();
    let fields = [
        ("subject.name", "Zoë Öhman".as_bytes()),
        ("subject.mrn", b"MRN-0001"),
        ("location.latitude", b"59.3293"),
        ("readings[0].note", b""),
        ("note", &[b'x'; 5000]),
    ];
    for (iv, (field, plain)) in (1..).zip(fields) {
        let (aad, sealed) = seal(field, plain, iv);
        let answer = stock.ask(&sealed, &place(field));
        assert_eq!(
            answer.aad,
            hex(&aad),
            "the AWS Encryption SDK serialises {field} differently"
        );
        assert_eq!(answer.plain, Some(hex(plain)), "Tink does not open {field}");
        let theirs = unhex(&answer.resealed.expect("sealed again"));
        let opened = FieldKey::new(KEY_ID, Key32::random(KEY))
            .expand()
            .open(&aad, &theirs)
            .expect("we open Tink's");
        assert_eq!(opened.as_slice(), plain);
    }
}

#[test]
fn a_moved_ciphertext_does_not_open() {
    let mut stock = Stock::start();
    let (aad, sealed) = seal("subject.name", b"Jane Roe", 1);
    assert!(stock.ask(&sealed, &place("subject.name")).plain.is_some());
    let moves = [
        ("field", "subject.mrn"),
        ("subject", "b3RoZXItc3ViamVjdC0xMg"),
        ("event", "0192f0c1-2345-7abc-8def-0123456789ac"),
        ("topic", "biometrics.raw"),
        ("env", "prod"),
    ];
    let ours = FieldKey::new(KEY_ID, Key32::random(KEY));
    for (what, elsewhere) in moves {
        let mut moved = place("subject.name");
        moved.insert(what, elsewhere);
        let answer = stock.ask(&sealed, &moved);
        assert_eq!(
            answer.plain, None,
            "Tink opens a ciphertext that was moved to another {what}"
        );
        let there = unhex(&answer.aad);
        assert_ne!(there, aad);
        assert!(
            ours.expand().open(&there, &sealed).is_err(),
            "we open a ciphertext that was moved to another {what}"
        );
    }
}
