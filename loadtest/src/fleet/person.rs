//! Synthetic people and their devices. Every identifier is made up: e-mail addresses use RFC 2606 domains, telephone
//! numbers the range reserved for fiction.

use jiff::civil::Date;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

const GIVEN: [&str; 32] = [
    "Ada", "Bela", "Chidi", "Dorte", "Emre", "Farah", "Goran", "Hana", "Ines", "Jonas", "Keiko", "Liam",
    "Mina", "Nuno", "Oksana", "Pavel", "Quentin", "Rosa", "Samir", "Tove", "Uma", "Viktor", "Wanda",
    "Ximena", "Yusuf", "Zofia", "André", "Björk", "Chloë", "Đorđe", "Łucja", "Søren",
];
const FAMILY: [&str; 32] = [
    "Abara",
    "Bergström",
    "Castellanos",
    "Dvořák",
    "Eriksen",
    "Fontaine",
    "Grünwald",
    "Hashimoto",
    "Ibekwe",
    "Jankowski",
    "Kowalczyk",
    "Lindqvist",
    "Moreau",
    "Nakagawa",
    "Okonkwo",
    "Petrović",
    "Quintero",
    "Rasmussen",
    "Szymański",
    "Takahashi",
    "Ulrich",
    "Vasquez",
    "Westerberg",
    "Xanthos",
    "Yılmaz",
    "Zielińska",
    "O'Brien",
    "Smith-Jones",
    "de la Cruz",
    "van den Berg",
    "Nguyễn",
    "Müller",
];
/// Device models, each with the firmware versions in use and the next version.
const MODELS: [(&str, [&str; 3], &str); 4] = [
    ("Pulse One", ["1.8.2", "1.9.0", "2.0.0"], "2.1.0"),
    ("Pulse Band 2", ["4.2.1", "4.3.0", "4.3.1"], "4.4.0"),
    ("CardioPatch", ["0.9.14", "1.0.0", "1.0.3"], "1.1.0"),
    ("BedSense", ["7.1", "7.2", "8.0"], "8.1"),
];

/// A wearer and the device they wear.
#[derive(Clone, Debug)]
pub struct Person {
    /// Subject id.
    pub id: String,
    /// Full name.
    pub name: String,
    /// Medical record number.
    pub mrn: String,
    /// Date of birth.
    pub birth_date: Date,
    /// E-mail address.
    pub email: String,
    /// Telephone number.
    pub phone: String,
    /// Latitude of the home, in degrees.
    pub latitude: f64,
    /// Longitude of the home, in degrees.
    pub longitude: f64,
    /// Device model.
    pub model: &'static str,
    /// Firmware version.
    pub firmware: &'static str,
    /// The version after all that are in use.
    pub next_firmware: &'static str,
}

impl Person {
    /// Makes the person with that subject id.
    pub fn make(id: &str, rng: &mut ChaCha8Rng) -> Self {
        let given = GIVEN[rng.random_range(0..GIVEN.len())];
        let family = FAMILY[rng.random_range(0..FAMILY.len())];
        let (model, firmwares, next_firmware) = MODELS[rng.random_range(0..MODELS.len())];
        let serial: u32 = rng.random_range(0..10_000_000);
        Self {
            id: id.to_owned(),
            name: format!("{given} {family}"),
            mrn: format!("MRN{serial:07}"),
            birth_date: jiff::civil::date(
                rng.random_range(1935..2006),
                rng.random_range(1..=12),
                rng.random_range(1..=28),
            ),
            email: format!("wearer.{id}.{serial:07}@example.org"),
            phone: format!(
                "{:03}-555-{:04}",
                rng.random_range(201..990),
                rng.random_range(100..200)
            ),
            latitude: rounded(rng.random_range(36.0..60.0), 5),
            longitude: rounded(rng.random_range(-9.0..30.0), 5),
            model,
            firmware: firmwares[rng.random_range(0..firmwares.len())],
            next_firmware,
        }
    }

    /// A note by the wearer, with personal data in it as people write them.
    #[must_use]
    pub fn note(&self, which: usize) -> String {
        match which % 4 {
            0 => format!(
                "{} felt dizzy after the stairs, please call {}",
                self.name, self.phone
            ),
            1 => format!("chest tightness at night, record {}", self.mrn),
            2 => format!("took 5 mg at breakfast; reach me at {}", self.email),
            _ => format!("\"all fine\" says {} \u{1F642}", self.name),
        }
    }
}

/// Rounds a value to that many decimals, as a sensor reports it.
#[must_use]
pub fn rounded(value: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (value * scale).round() / scale
}
