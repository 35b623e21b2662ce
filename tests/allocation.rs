//! Once its buffers have grown, a batch of walks and rewrites performs no allocation.
#![expect(
    unsafe_code,
    reason = "a counting allocator implements an unsafe trait, and allocations cannot be counted otherwise"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use pulsegate_core::event::{Arena, Catalog, Config, Format, Rewriter, Seal, Source};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the allocations of its thread.
struct Counting;

// SAFETY: all work is delegated to the system allocator; counting touches no memory that it manages.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds the contract, which is passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract, which is passed on unchanged.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// With an escaped string, numbers to be converted into text, and edits inside an array's item.
const EVENTS: [&str; 2] = [
    r#"{"event_id":"0192f0c1-2f5e-7c11-9f3a-0242ac120002","device_id":"d-1","subject":{"id":"s-1","name":"A\u00e9",
        "birth_date":"1984-05-02"},"recorded_at":"2026-11-22T16:44:01Z","firmware":"f","model":"m",
        "location":{"latitude":1.5,"longitude":2},"readings":[{"metric":"spo2","value":97}],"note":"n"}"#,
    r#"{"event_id":"0192f0c1-2f5e-7c11-9f3a-0242ac120003","device_id":"d-2","subject":{"id":"s-2"},
        "recorded_at":"2026-11-22T16:44:01.5+01:00","firmware":"f","model":"m","readings":[]}"#,
];

#[test]
fn a_batch_allocates_nothing() {
    let text = include_str!("../schemas/biometric_event.avsc").to_owned();
    let source = Source {
        name: "biometric_event".to_owned(),
        text,
    };
    let catalog = Catalog::compile(&[source], &Config::default()).expect("the default event compiles");
    let plan = &catalog.plans()[0];
    let (mut arena, mut rewriter, mut out, mut walks) = (
        Arena::default(),
        Rewriter::default(),
        Vec::new(),
        Vec::with_capacity(2_000),
    );
    let mut batch = || {
        arena.clear();
        out.clear();
        walks.clear();
        for _ in 0..1_000 {
            for event in EVENTS {
                walks.push((
                    event,
                    plan.walk(Format::Json, event.as_bytes(), 0, &mut arena)
                        .expect("an event"),
                ));
            }
        }
        for (event, walk) in &walks {
            let seal = |_: Seal, plain: &[u8], _: &str, out: &mut Vec<u8>| out.extend_from_slice(plain);
            rewriter
                .rewrite(plan, event.as_bytes(), walk, &arena, &mut out, seal)
                .expect("written");
        }
    };
    batch();
    let before = ALLOCATIONS.get();
    batch();
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
