//! The gate's core and the load test's oracle were written separately, from the contract. Here they judge the same
//! records: those of a fleet whose generator states the expected outcomes, and the same records damaged at random.

use std::cell::RefCell;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use proptest::sample::Index;
use pulsegate_core::event::{Catalog, Config, Source};
use pulsegate_core::gate;
use pulsegate_core::gate::admit::{self, Admission};
use pulsegate_core::gate::keyring::{Algorithm, KeyRow, KeyState, Keyring, KeyringBuilder, Profile};
use pulsegate_core::gate::pipeline::{self, Pipeline};
use pulsegate_core::gate::verify::{self, Budget, Context};
use pulsegate_ledger::outcome::Outcome;
use pulsegate_ledger::record::{Received, SignatureHeaders};
use pulsegate_loadtest::fleet::event::Format;
use pulsegate_loadtest::fleet::keys::Claim;
use pulsegate_loadtest::fleet::{Draft, Fleet, Hostile, Kind, Options};
use pulsegate_loadtest::oracle::{AvroSchemas, Judge, Keys, Rules};
use pulsegate_loadtest::record::Record;

const SCHEMA: &str = include_str!("../schemas/biometric_event.avsc");
const NOW_MS: i64 = 1_800_000_000_000;
const PARTITIONS: i32 = 5;
const FRESHNESS_MS: i64 = 300_000;

/// The gate's pipeline up to sealing, for one topic.
struct Gate {
    keyring: Keyring,
    catalog: Catalog,
    context: Context,
    pipeline: Pipeline,
    budget: Budget,
    lanes: Vec<Admission>,
}

impl Gate {
    fn new(fleet: &Fleet) -> Self {
        let source = Source {
            name: "biometric_event".to_owned(),
            text: SCHEMA.to_owned(),
        };
        let partitions = NonZeroU32::new(PARTITIONS.unsigned_abs()).expect("not zero");
        let context = Context::new("local", "biometrics.raw", partitions, verify::Config::default());
        Self {
            keyring: keyring(fleet),
            catalog: Catalog::compile(&[source], &Config::default()).expect("the default event is a plan"),
            budget: context.budget(),
            context,
            pipeline: Pipeline::default(),
            lanes: (0..PARTITIONS)
                .map(|_| Admission::new(&admit::Config::default(), FRESHNESS_MS))
                .collect(),
        }
    }

    /// Starts over with empty state, so that no record is a repeat.
    fn forget(&mut self) {
        let lane = || Admission::new(&admit::Config::default(), FRESHNESS_MS);
        self.lanes.fill_with(lane);
        self.budget = self.context.budget();
    }

    /// The outcome that the gate would write into the ledger.
    fn outcome(&mut self, record: &Record, partition: i32, appended_ms: i64) -> Outcome {
        let mut signature = SignatureHeaders::default();
        for header in &record.headers {
            signature.take(&header.name, header.value.as_deref());
        }
        let received = Received {
            partition,
            offset: 0,
            appended_ms,
            key: record.key.as_deref(),
            value: record.value.as_deref().unwrap_or_default(),
            signature,
        };
        // Without a registry every schema id is unknown.
        let rules = gate::Rules {
            keyring: &self.keyring,
            catalog: &self.catalog,
            ids: None,
            verify: &self.context,
        };
        let lane = usize::try_from(partition).expect("partitions count from zero");
        self.pipeline.clear();
        let verified = self.pipeline.verify(received, &rules, &mut self.budget);
        let decoded = self.pipeline.decode(verified, &rules);
        let keyed = self.pipeline.key(decoded, |_, _| Some(()));
        let (_, verdict) = pipeline::admit(keyed, &mut self.lanes[lane]).expect("no piece is missing");
        verdict.outcome()
    }
}

fn keyring(fleet: &Fleet) -> Keyring {
    let mut builder = KeyringBuilder::default();
    for line in fleet.keys().map(|key| key.line(false)) {
        let base64 = line.public_key.or(line.secret).expect("a public key or a secret");
        let material = BASE64_STANDARD
            .decode(base64.trim_start_matches("whsec_"))
            .expect("base64");
        let row = KeyRow {
            kid: &line.kid,
            device: &line.device,
            tenant: &line.tenant,
            class: &line.class,
            profile: Profile::from_name(&line.profile).expect("a profile"),
            algorithm: line.alg.map_or(Algorithm::HmacSha256, |alg| {
                Algorithm::from_name(&alg).expect("an algorithm")
            }),
            state: KeyState::Active,
            material: &material,
            device_token: b"AAAAAAAAAAAAAAAAAAAAAA",
        };
        builder.put(&row).expect("the registry accepts a fleet's keys");
    }
    builder.finish().expect("one key per device")
}

fn keys(fleet: &Fleet) -> Keys {
    let lines: Vec<String> = fleet.import_lines().collect();
    Keys::read(lines.iter().map(String::as_str)).expect("a fleet's keys")
}

fn rules() -> Rules {
    let schema = apache_avro::Schema::parse_str(SCHEMA).expect("an Avro schema");
    let avro = AvroSchemas {
        event: Some(schema.into()),
        ids: Vec::new(),
    };
    Rules {
        avro,
        ..Rules::default()
    }
}

fn judge<'a>(keys: &'a Keys, rules: &'a Rules) -> Judge<'a> {
    Judge {
        keys,
        rules,
        audience: "local/biometrics.raw".to_owned(),
        partitions: PARTITIONS,
    }
}

fn drafts(format: Format, records: usize) -> (Fleet, Vec<Draft>) {
    let hostile = Hostile {
        forged: 0.1,
        replayed: 0.1,
        misplaced: 0.05,
        stale: 0.1,
        malformed: 0.2,
        oversized_bytes: (1 << 20) + 1,
        ..Hostile::default()
    };
    let options = Options {
        devices: 50,
        boot: 1,
        hostile,
        format,
        ..Options::new(3)
    };
    let mut fleet = Fleet::new(options);
    let mut draft = Draft::default();
    let drafts = (0..records)
        .map(|_| {
            fleet.next(NOW_MS, &mut draft).expect("a record");
            draft.clone()
        })
        .collect();
    (fleet, drafts)
}

/// The oracle's name for an outcome of the gate.
fn named(outcome: Outcome) -> pulsegate_loadtest::outcome::Outcome {
    pulsegate_loadtest::outcome::Outcome::from_name(outcome.as_str().as_bytes())
        .expect("both know every outcome")
}

fn check_fleet(format: Format) {
    let (fleet, drafts) = drafts(format, 4000);
    let (keys, rules) = (keys(&fleet), rules());
    let judge = judge(&keys, &rules);
    let mut gate = Gate::new(&fleet);
    for Draft {
        record,
        kind,
        expected,
        ..
    } in &drafts
    {
        let partition = drafts_partition(record, *kind);
        let outcome = named(gate.outcome(record, partition, NOW_MS + 40));
        assert!(
            expected.contains(outcome),
            "{kind:?}: the gate says {outcome}, the generator {expected}"
        );
        let deserved = judge.deserves(record, partition, NOW_MS + 40);
        let repeat =
            *kind == Kind::Replayed && deserved.contains(pulsegate_loadtest::outcome::Outcome::Clean);
        assert!(
            repeat || deserved.contains(outcome),
            "{kind:?}: the gate says {outcome}, the oracle {deserved}"
        );
    }
}

fn drafts_partition(record: &Record, kind: Kind) -> i32 {
    let draft = Draft {
        record: record.clone(),
        misplaced: kind == Kind::Misplaced,
        kind,
        ..Draft::default()
    };
    draft.partition(PARTITIONS)
}

#[test]
fn gate_oracle_and_generator_agree_on_a_hostile_fleet_in_json() {
    check_fleet(Format::Json);
}

#[test]
fn gate_oracle_and_generator_agree_on_a_hostile_fleet_in_avro() {
    let schema = apache_avro::Schema::parse_str(SCHEMA)
        .expect("an Avro schema")
        .into();
    check_fleet(Format::AvroSingleObject { schema });
}

/// Damage to a record in transit.
#[derive(Clone, Debug)]
enum Damage {
    Value(Change),
    Header(Index, Change),
    DropHeader(Index),
    RepeatHeader(Index),
    NullKey,
    OtherKey(u8),
    Partition(i32),
    Late(i64),
}

/// A change to bytes.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    let inserted = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..4),
        proptest::sample::select(vec![
            br#","note":null"#.to_vec(),
            br#","model":"x""#.to_vec(),
            b" ".to_vec(),
            b"\\u0041".to_vec(),
            b"1e5".to_vec(),
            b"}".to_vec(),
        ]),
    ];
    prop_oneof![
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        any::<Index>().prop_map(Change::Cut),
        (any::<Index>(), inserted).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
    ]
}

fn damage() -> impl Strategy<Value = Damage> {
    let edges = prop_oneof![
        Just(FRESHNESS_MS),
        Just(FRESHNESS_MS + 1),
        Just(-FRESHNESS_MS - 1),
        -400_000..400_000_i64
    ];
    prop_oneof![
        3 => change().prop_map(Damage::Value),
        3 => (any::<Index>(), change()).prop_map(|(header, change)| Damage::Header(header, change)),
        1 => any::<Index>().prop_map(Damage::DropHeader),
        1 => any::<Index>().prop_map(Damage::RepeatHeader),
        1 => Just(Damage::NullKey),
        1 => any::<u8>().prop_map(Damage::OtherKey),
        1 => (0..PARTITIONS).prop_map(Damage::Partition),
        1 => edges.prop_map(Damage::Late),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        match self {
            Self::Flip(at, bit) if length > 0 => bytes[at.index(length)] ^= 1 << bit,
            Self::Flip(..) => {}
            Self::Cut(at) => bytes.truncate(at.index(length + 1)),
            Self::Insert(at, inserted) => {
                let at = at.index(length + 1);
                bytes.splice(at..at, inserted.iter().copied());
            }
        }
    }
}

/// A record and the place where it was appended.
struct Placed {
    record: Record,
    partition: i32,
    appended_ms: i64,
}

impl Placed {
    fn damage(&mut self, damage: &Damage) {
        let Record { key, value, headers } = &mut self.record;
        let count = headers.len();
        match damage {
            Damage::Value(change) => change.apply(value.get_or_insert_default()),
            Damage::NullKey => *key = None,
            Damage::OtherKey(number) => *key = Some(format!("dev3-h{:06}", number % 60).into_bytes()),
            Damage::Partition(partition) => self.partition = *partition,
            Damage::Late(late_ms) => self.appended_ms += late_ms,
            // The remaining kinds of damage need a header.
            _ if count == 0 => {}
            Damage::Header(header, change) => {
                change.apply(headers[header.index(count)].value.get_or_insert_default());
            }
            Damage::DropHeader(header) => drop(headers.remove(header.index(count))),
            Damage::RepeatHeader(header) => headers.push(headers[header.index(count)].clone()),
        }
    }
}

/// A fleet, some of its records, and everything needed to judge them.
struct Court {
    fleet: Fleet,
    drafts: Vec<Draft>,
    keys: Keys,
    rules: Rules,
    gate: RefCell<Gate>,
}

thread_local! {
    static COURT: Court = {
        let (fleet, drafts) = drafts(Format::Json, 400);
        Court { keys: keys(&fleet), rules: rules(), gate: RefCell::new(Gate::new(&fleet)), fleet, drafts }
    };
}

impl Court {
    fn placed(&self, pick: Index) -> Placed {
        let draft = pick.get(&self.drafts);
        Placed {
            record: draft.record.clone(),
            partition: draft.partition(PARTITIONS),
            appended_ms: NOW_MS,
        }
    }

    fn agree(&self, placed: &Placed) -> Result<(), TestCaseError> {
        let mut gate = self.gate.borrow_mut();
        gate.forget();
        let outcome = named(gate.outcome(&placed.record, placed.partition, placed.appended_ms));
        let judge = judge(&self.keys, &self.rules);
        let deserved = judge.deserves(&placed.record, placed.partition, placed.appended_ms);
        let headers = placed.record.headers.iter().map(|header| {
            let value = header.value.as_deref().unwrap_or_default();
            format!("{}: {}", header.name.escape_ascii(), value.escape_ascii())
        });
        prop_assert!(
            deserved.contains(outcome),
            "the gate says {}, the oracle {} of {:#?}",
            outcome,
            deserved,
            headers.collect::<Vec<_>>()
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Damage before signing: the signature is valid, so the walkers must agree with serde.
    #[test]
    fn gate_and_oracle_agree_on_signed_nonsense(
        pick in any::<Index>(),
        changes in proptest::collection::vec(change(), 0..3),
    ) {
        COURT.with(|court| {
            let mut placed = court.placed(pick);
            let device = placed.record.key.clone().unwrap_or_default();
            let value = placed.record.value.get_or_insert_default();
            changes.iter().for_each(|change| change.apply(value));
            let claim = Claim { audience: "local/biometrics.raw", signed_s: NOW_MS / 1000, boot: 9, sequence: 1 };
            if let Some(key) = court.fleet.keys().find(|key| key.device.as_bytes() == device) {
                key.sign(&claim, value, &mut Default::default(), &mut placed.record.headers);
            }
            court.agree(&placed)
        })?;
    }

    /// Damage after signing, to every part of a record.
    #[test]
    fn gate_and_oracle_agree_on_damaged_records(
        pick in any::<Index>(),
        damages in proptest::collection::vec(damage(), 1..3),
    ) {
        COURT.with(|court| {
            let mut placed = court.placed(pick);
            damages.iter().for_each(|damage| placed.damage(damage));
            court.agree(&placed)
        })?;
    }
}
