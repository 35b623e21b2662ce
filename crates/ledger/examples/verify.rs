//! Checks the chain of one lane's ledger records, given as JSON lines on standard input, and prints the size and the root of
//! the log that they make: a signed checkpoint of that size must have that root.
//!
//! `cargo run -p pulsegate-ledger --example verify -- pulsegate.raw/0 <ledger.jsonl`

use std::io::{self, BufRead};
use std::process::ExitCode;

use pulsegate_ledger::log::chain::Chain;
use pulsegate_ledger::merkle::{MerkleRoot, leaf};

fn main() -> ExitCode {
    let Some(lane) = std::env::args().nth(1) else {
        eprintln!(
            "usage: verify <raw topic>/<partition>, with ledger records as JSON lines on standard input"
        );
        return ExitCode::from(2);
    };
    match verify(&lane, io::stdin().lock()) {
        Ok(log) => {
            let root: String = log.root().iter().map(|byte| format!("{byte:02x}")).collect();
            println!("{} entries follow from each other; root {root}", log.leaves());
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// The log of the lane, or the first record that does not follow from its predecessor.
fn verify(lane: &str, records: impl BufRead) -> Result<MerkleRoot, String> {
    let (mut chain, mut log) = (Chain::new(lane), MerkleRoot::new());
    for (line, record) in (1..).zip(records.lines()) {
        let record = record.map_err(|error| format!("failed to read line {line}: {error}"))?;
        let entries = chain.observe(line, record.as_bytes());
        // A record in its place is its only entry; alerts about its faults come before it.
        match entries.as_slice() {
            [entry] if entry == record.as_bytes() => log.push(leaf(&[entry])),
            [alert, ..] => return Err(format!("line {line}: {}", String::from_utf8_lossy(alert))),
            [] => return Err(format!("line {line}: no entry")),
        }
    }
    Ok(log)
}
