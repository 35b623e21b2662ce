//! The JSON walker never panics; serde_json accepts every value that it accepts, and the rewritten value.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pulsegate_core::event::{Arena, Catalog, Config, Format, Rewriter, Source, Violation};
use serde_json::Value;

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let text = include_str!("../../schemas/biometric_event.avsc").to_owned();
    let source = Source {
        name: "biometric_event".to_owned(),
        text,
    };
    Catalog::compile(&[source], &Config::default()).expect("the default event compiles")
});

fuzz_target!(|value: &[u8]| {
    let plan = &CATALOG.plans()[0];
    let mut arena = Arena::default();
    let parsed = serde_json::from_slice::<Value>(value);
    let walk = match plan.walk(Format::Json, value, 0, &mut arena) {
        Ok(walk) => walk,
        Err(Violation::Undecodable) => return,
        Err(Violation::Schema { .. }) => return,
    };
    let parsed = parsed.expect("an accepted value is JSON");
    let mut out = Vec::new();
    Rewriter::default()
        .rewrite(plan, value, &walk, &arena, &mut out, |_, _, _, out| {
            out.extend_from_slice(b"sealed")
        })
        .expect("the format stays");
    let mut clean: Value = serde_json::from_slice(&out).expect("what comes out is JSON");
    // Every leaf that the plan protects is replaced; everything else is unchanged.
    plan.visit_sealed(&mut clean, |sealed| *sealed.leaf = Value::Null);
    let mut raw = parsed;
    plan.visit_sealed(&mut raw, |sealed| *sealed.leaf = Value::Null);
    assert_eq!(clean, raw);
});
