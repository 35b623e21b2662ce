//! The Avro walker never panics; apache-avro reads every value that it accepts to the end, and also the rewritten
//! value, in Avro and, by the slow path, in JSON.
#![no_main]

use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use libfuzzer_sys::fuzz_target;
use pulsegate_core::event::{Arena, Catalog, Config, Format, Rewriter, Source};

struct Side {
    catalog: Catalog,
    raw: Schema,
    clean: Schema,
}

fn side(clean_format: Format) -> Side {
    let text = include_str!("../../schemas/biometric_event.avsc").to_owned();
    let source = Source {
        name: "biometric_event".to_owned(),
        text,
    };
    let config = Config {
        clean_format,
        ..Config::default()
    };
    let catalog = Catalog::compile(&[source], &config).expect("the default event compiles");
    let parse = |schema| Schema::parse(schema).expect("a schema");
    let (raw, clean) = {
        let plan = &catalog.plans()[0];
        (parse(plan.schema()), parse(plan.clean_schema()))
    };
    Side { catalog, raw, clean }
}

static AVRO: LazyLock<Side> = LazyLock::new(|| side(Format::Avro));
static JSON: LazyLock<Side> = LazyLock::new(|| side(Format::Json));

fn read_to_its_end(schema: &Schema, mut datum: &[u8]) {
    let reader = GenericDatumReader::builder(schema).build().expect("a reader");
    reader.read_value(&mut datum).expect("apache-avro reads it");
    assert!(datum.is_empty(), "apache-avro leaves bytes unread");
}

fuzz_target!(|datum: &[u8]| {
    for side in [&*AVRO, &*JSON] {
        let plan = &side.catalog.plans()[0];
        let mut arena = Arena::default();
        let Ok(walk) = plan.walk(Format::Avro, datum, 0, &mut arena) else {
            return;
        };
        read_to_its_end(&side.raw, datum);
        let mut out = Vec::new();
        Rewriter::default()
            .rewrite(plan, datum, &walk, &arena, &mut out, |_, _, _, out| {
                out.extend_from_slice(b"sealed")
            })
            .expect("what the walk takes can be written");
        match plan.clean_format() {
            Format::Avro => read_to_its_end(&side.clean, &out[10..]),
            Format::Json => {
                serde_json::from_slice::<serde_json::Value>(&out).expect("the rewritten value is JSON");
            }
        }
    }
});
