//! A seeded fleet of devices that sign physiologically plausible events, some of them hostile.
//!
//! The same seed gives the same devices, people and keys; the same seed and boot give the same events, except for the
//! time of signing. Every record comes with the outcomes that the generator expects; they are never part of the record.
//!
//! ```no_run
//! use pulsegate_loadtest::fleet::{Fleet, Hostile, Options};
//! use pulsegate_loadtest::kafka::Kafka;
//! use pulsegate_loadtest::outcome::Outcome;
//!
//! let mut fleet = Fleet::new(Options { devices: 100, hostile: Hostile::some(), ..Options::new(7) });
//! for line in fleet.import_lines() {
//!     println!("{line}"); // for `pulsegate device import`
//! }
//! let made = fleet.produce(&Kafka::at("localhost:9092"), 50_000, &mut |produced| eprintln!("{produced}"))?;
//! println!("{} produced, {} of them signed with an unknown key", made.records, made.expected(Outcome::UnknownKey));
//! # Ok::<(), anyhow::Error>(())
//! ```

mod draft;
pub mod event;
mod hostile;
pub mod incident;
pub mod keys;
pub mod person;
pub mod physiology;
mod produce;

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::Builder;

use crate::record::Record;
pub use draft::{Draft, Kind};
use event::{BiometricEvent, Format, Location, Reading, Subject};
pub use hostile::Hostile;
use incident::{Incident, Planned};
use keys::{Claim, DeviceKey, Profile, Scratch};
use person::Person;
use physiology::Body;
pub use produce::{Made, Pace, Tally};

/// Properties of a fleet. `Options::new` gives the defaults.
#[derive(Clone)]
pub struct Options {
    /// Seed of the devices, people and keys.
    pub seed: u64,
    /// Number of devices. Default 100.
    pub devices: u32,
    /// Boot number that sequence numbers are counted in: a later run over the same devices needs a higher one, or every
    /// record is a repeat. Default: seconds since the Unix epoch.
    pub boot: u64,
    /// Environment: the first half of the audience. Default `local`.
    pub environment: String,
    /// The raw topic, and the second half of the audience. Default `biometrics.raw`.
    pub topic: String,
    /// Tenants; devices are assigned to them in turn. Default `acme` only.
    pub tenants: Vec<String>,
    /// Device class, which selects the gate's rate limit. Default `wearable`.
    pub class: String,
    /// Shares of devices by profile.
    pub profiles: Profiles,
    /// Shares of records by misdeed. Default none.
    pub hostile: Hostile,
    /// Number of devices with an incident of each kind, in the last quarter of the schedule. Default none.
    pub incidents: u32,
    /// Event time, in milliseconds since the Unix epoch, at which a firmware that reads the heart rate too high is
    /// rolled out to every second device of the most common model. Default never.
    pub rollout_ms: Option<i64>,
    /// Size of an event.
    pub shape: Shape,
    /// Encoding of events. Default JSON.
    pub format: Format,
    /// Event time of each device's first event, in milliseconds since the Unix epoch; `None` ends the events now.
    pub start_ms: Option<i64>,
    /// Event time between two events of a device, in milliseconds. Default one minute.
    pub step_ms: i64,
    /// librdkafka's `compression.type`. Default `none`.
    pub compression: String,
}

/// Shares of devices by profile; the rest, up to 1, sign with HS256.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profiles {
    /// `jws` with Ed25519.
    pub ed25519: f64,
    /// `webhook`; HS256 instead if events are Avro, because a webhook body is text.
    pub webhook: f64,
}

/// Size of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Every metric and PHI field, sometimes a location and a note: 600 to 900 bytes of JSON.
    Full,
    /// About 290 bytes of JSON with three encrypted PHI fields and one reading: the benchmark's event.
    Compact,
}

/// The synthetic devices, and the generator of their records.
pub struct Fleet {
    options: Options,
    audience: String,
    devices: Vec<Device>,
    rng: ChaCha8Rng,
    turn: usize,
    flood: hostile::Flood,
    recent: hostile::Recent,
    readings: Vec<Reading>,
    scratch: Scratch,
    /// Number of a device's first event that may have an incident.
    incidents_from: i64,
}

/// One device, its wearer and its key.
struct Device {
    key: DeviceKey,
    person: Person,
    body: Body,
    sequence: u64,
    events: i64,
    incident: Option<Planned>,
}

impl Options {
    /// Default options for a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            devices: 100,
            boot: jiff::Timestamp::now().as_second().unsigned_abs(),
            environment: "local".to_owned(),
            topic: "biometrics.raw".to_owned(),
            tenants: vec!["acme".to_owned()],
            class: "wearable".to_owned(),
            profiles: Profiles {
                ed25519: 0.1,
                webhook: 0.2,
            },
            hostile: Hostile::default(),
            incidents: 0,
            rollout_ms: None,
            shape: Shape::Full,
            format: Format::Json,
            start_ms: None,
            step_ms: 60_000,
            compression: "none".to_owned(),
        }
    }
}

impl Profiles {
    /// Every device with the same profile.
    #[must_use]
    pub fn only(profile: Profile) -> Self {
        let share = |of| if profile == of { 1.0 } else { 0.0 };
        Self {
            ed25519: share(Profile::JwsEd25519),
            webhook: share(Profile::Webhook),
        }
    }

    fn of_device(self, rng: &mut ChaCha8Rng) -> Profile {
        let draw: f64 = rng.random();
        match draw {
            draw if draw < self.ed25519 => Profile::JwsEd25519,
            draw if draw < self.ed25519 + self.webhook => Profile::Webhook,
            _ => Profile::JwsHs256,
        }
    }
}

impl Fleet {
    /// Makes the devices. An Ed25519 device costs about 20 µs, any other about 2 µs.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let mut devices: Vec<_> = (0..options.devices.max(1))
            .map(|index| Device::make(&options, index))
            .collect();
        if options.rollout_ms.is_some() {
            plan_rollout(&mut devices);
        }
        let audience = format!("{}/{}", options.environment, options.topic);
        let rng = ChaCha8Rng::seed_from_u64(options.seed ^ options.boot.rotate_left(32));
        Self {
            options,
            audience,
            devices,
            rng,
            turn: 0,
            flood: hostile::Flood::default(),
            recent: hostile::Recent::default(),
            readings: Vec::new(),
            scratch: Scratch::default(),
            incidents_from: i64::MAX,
        }
    }

    /// The options that the fleet was made with.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Every key as a line for `device import`.
    pub fn import_lines(&self) -> impl Iterator<Item = String> {
        self.lines(false)
    }

    /// Every key with its private half: for `replay`, never for a registry.
    pub fn signing_lines(&self) -> impl Iterator<Item = String> {
        self.lines(true)
    }

    fn lines(&self, private: bool) -> impl Iterator<Item = String> {
        // A struct of strings always serialises.
        self.devices
            .iter()
            .map(move |device| serde_json::to_string(&device.key.line(private)).unwrap_or_default())
    }

    /// Keys of all devices.
    pub fn keys(&self) -> impl Iterator<Item = &DeviceKey> {
        self.devices.iter().map(|device| &device.key)
    }

    /// Incidents so far.
    #[must_use]
    pub fn incidents(&self) -> Vec<Incident> {
        let of = |device: &Device| {
            let planned = device.incident.as_ref()?;
            Some(Incident {
                kind: planned.kind,
                device: device.key.device.clone(),
                began_ms: planned.began_ms?,
            })
        };
        self.devices.iter().filter_map(of).collect()
    }

    /// Every string that must not appear behind the gate: subject ids, names, record numbers, addresses, phone numbers.
    #[must_use]
    pub fn planted(&self) -> Vec<String> {
        let of = |person: &Person| {
            [
                &person.id,
                &person.name,
                &person.mrn,
                &person.email,
                &person.phone,
            ]
            .map(String::clone)
        };
        let mut planted: Vec<_> = self
            .devices
            .iter()
            .flat_map(|device| of(&device.person))
            .collect();
        planted.sort_unstable();
        planted.dedup();
        planted
    }

    /// Sets the event time of the first events so that the last of `records` is at about `now_ms`, unless the options
    /// set a start time.
    pub fn schedule(&mut self, records: u64, now_ms: i64) {
        let turns = self.options.hostile.turns(records);
        let rounds = turns.div_ceil(self.devices.len() as u64);
        let rounds = i64::try_from(rounds).unwrap_or(i64::MAX);
        let span = rounds.saturating_mul(self.options.step_ms);
        self.incidents_from = rounds - rounds / 4;
        self.options.start_ms.get_or_insert(now_ms.saturating_sub(span));
    }

    /// Makes the next record, signed at `now_ms` (milliseconds since the Unix epoch), and replaces the content of
    /// `draft`.
    ///
    /// # Errors
    /// When the format's Avro schema does not fit the default event.
    pub fn next(&mut self, now_ms: i64, draft: &mut Draft) -> anyhow::Result<()> {
        let kind = self.options.hostile.draw(&mut self.rng, &self.options.format);
        if matches!(kind, Kind::Replayed | Kind::Misplaced) && self.recent.take(kind, &mut self.rng, draft) {
            return Ok(());
        }
        let (device, kind) = match self
            .flood
            .device(&self.options.hostile, self.devices.len(), &mut self.rng)
        {
            Some((flooding, begins)) => {
                if begins {
                    self.recent.forget();
                }
                (flooding, Kind::Flood)
            }
            None if matches!(kind, Kind::Replayed | Kind::Misplaced) => (self.turn(), Kind::Good),
            None => (self.turn(), kind),
        };
        self.write(device, kind, now_ms, &mut draft.record)?;
        draft.kind = kind;
        draft.misplaced = false;
        draft.expected = kind.expected();
        self.sign(device, kind, now_ms, draft);
        self.recent.keep(&self.options.hostile, kind, draft);
        Ok(())
    }

    fn turn(&mut self) -> usize {
        let device = self.turn;
        self.turn = (device + 1) % self.devices.len();
        device
    }

    /// Writes the key and value of the device's next event.
    fn write(&mut self, device: usize, kind: Kind, now_ms: i64, record: &mut Record) -> anyhow::Result<()> {
        let Options {
            shape,
            step_ms,
            start_ms,
            rollout_ms,
            ..
        } = self.options;
        let incidents_from = self.incidents_from;
        let device = &mut self.devices[device];
        let full = shape == Shape::Full;
        let at_ms = start_ms
            .unwrap_or(now_ms)
            .saturating_add(device.events.saturating_mul(step_ms));
        // The benchmark's event has whole seconds, to be short.
        let jitter_ms = if full {
            self.rng.random_range(0..step_ms.clamp(1, 1000))
        } else {
            -at_ms.rem_euclid(1000)
        };
        let at_ms = at_ms + jitter_ms;
        // A flooding device sends many events at once, so its clock does not advance.
        device.events += i64::from(kind != Kind::Flood);
        device
            .body
            .measure(at_ms, step_ms, full, &mut self.rng, &mut self.readings);
        device.happen(at_ms, incidents_from, rollout_ms, &mut self.readings);
        let person = &device.person;
        let rare = self.rng.random_range(0..64_usize);
        let note = (full && rare < 4).then(|| person.note(rare));
        let event = BiometricEvent {
            event_id: Builder::from_random_bytes(self.rng.random()).into_uuid(),
            device_id: &device.key.device,
            subject: Subject {
                id: &person.id,
                name: Some(&person.name),
                mrn: Some(&person.mrn),
                birth_date: full.then_some(person.birth_date),
                email: full.then_some(&person.email),
                phone: Some(&person.phone),
            },
            recorded_at: jiff::Timestamp::from_millisecond(at_ms)?,
            firmware: person.firmware,
            model: if full { person.model } else { "P1" },
            location: (full && rare % 8 == 7).then_some(Location {
                latitude: person.latitude,
                longitude: person.longitude,
            }),
            readings: &self.readings,
            note: note.as_deref(),
        };
        let mut value = record.value.take().unwrap_or_default();
        self.options.format.write(&event, &mut value)?;
        record.value = Some(value);
        let key = record.key.get_or_insert_default();
        key.clear();
        key.extend_from_slice(device.key.device.as_bytes());
        Ok(())
    }

    /// Signs the draft, with the misdeed applied before or after the signature as its kind requires.
    fn sign(&mut self, device: usize, kind: Kind, now_ms: i64, draft: &mut Draft) {
        let other = (kind == Kind::Impostor)
            .then(|| self.devices[(device + 1) % self.devices.len()].key.device.clone());
        let device = &mut self.devices[device];
        device.sequence += 1;
        let mut claim = Claim {
            audience: &self.audience,
            signed_s: now_ms.div_euclid(1000),
            boot: self.options.boot,
            sequence: device.sequence,
        };
        if kind == Kind::Oversized {
            // White space after the object is still valid JSON, so only the size is wrong.
            draft
                .record
                .value
                .get_or_insert_default()
                .resize(self.options.hostile.oversized_bytes, b' ');
        }
        kind.before_signing(&mut claim, &device.key, &other.unwrap_or_default(), draft);
        let forged;
        let key = match kind.signs_with(&device.key, &mut self.rng) {
            Some(key) => {
                forged = key;
                &forged
            }
            None => &device.key,
        };
        let value = draft.record.value.as_deref().unwrap_or_default();
        key.sign(&claim, value, &mut self.scratch, &mut draft.record.headers);
        kind.after_signing(draft, &mut self.rng);
    }
}

/// Plans the rollout for every second device of the most common model that has no other incident.
fn plan_rollout(devices: &mut [Device]) {
    let mut models: BTreeMap<&str, usize> = BTreeMap::new();
    for device in &*devices {
        *models.entry(device.person.model).or_default() += 1;
    }
    let common = models
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .map(|(model, _)| model);
    let same = devices
        .iter_mut()
        .filter(|device| Some(device.person.model) == common);
    for device in same.step_by(2) {
        device
            .incident
            .get_or_insert(Planned::new(incident::Kind::BadFirmware));
    }
}

impl Device {
    fn make(options: &Options, index: u32) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        rng.set_stream(u64::from(index) + 1);
        let person = Person::make(&format!("sub{}-{index:06}", options.seed), &mut rng);
        let age_years = f64::from(2026 - person.birth_date.year());
        let body = Body::make(age_years, &mut rng);
        let profile = match options.profiles.of_device(&mut rng) {
            // A webhook body is UTF-8 by its specification, which Avro is not.
            Profile::Webhook if !matches!(options.format, Format::Json) => Profile::JwsHs256,
            profile => profile,
        };
        let tenants = options.tenants.len().max(1);
        let tenant = options
            .tenants
            .get(index as usize % tenants)
            .map_or("acme", String::as_str);
        // Another seed or profile gives other device ids, so that one registry can hold several fleets.
        let letter = match profile {
            Profile::JwsHs256 => 'h',
            Profile::JwsEd25519 => 'e',
            Profile::Webhook => 'w',
        };
        let device = format!("dev{}-{letter}{index:06}", options.seed);
        let key = DeviceKey::derive(options.seed, index, &device, profile, tenant, &options.class);
        Self {
            key,
            person,
            body,
            sequence: 0,
            events: 0,
            incident: Planned::of_device(index, options.incidents),
        }
    }

    /// Starts the planned incident when it is due, and applies it to the readings.
    fn happen(&mut self, at_ms: i64, from_event: i64, rollout_ms: Option<i64>, readings: &mut [Reading]) {
        let Some(incident) = &mut self.incident else {
            return;
        };
        let is_rollout = incident.kind == incident::Kind::BadFirmware;
        let has_begun = if is_rollout {
            rollout_ms.is_some_and(|rollout_ms| at_ms >= rollout_ms)
        } else {
            self.events > from_event
        };
        if !has_begun {
            return;
        }
        incident.happen(at_ms, readings);
        if is_rollout {
            self.person.firmware = self.person.next_firmware;
        }
    }
}

#[cfg(test)]
mod tests;
