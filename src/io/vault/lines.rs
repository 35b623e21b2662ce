//! The lines of `device import`: one JSON object per key. Problems name the line and the field, never the value.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead, Read};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::HOUSE;
use pulsegate_core::gate::keyring::{Algorithm, KeyRow, KeyState, KeyringError, Profile};

/// The longest line, in bytes: every name and secret at its limit, with room to spare.
pub const LINE_BYTES_MAX: usize = 4096;
/// The longest name of a tenant or a device class, in bytes.
const TENANT_BYTES_MAX: usize = 63;
const CLASS_BYTES_MAX: usize = 31;

/// Standard base64, with or without its padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line's number, from 1.
    pub line: u64,
    /// The field, unless the problem is of the whole line.
    pub field: Option<&'static str>,
    /// What is wrong and what is expected.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(field) = self.field {
            write!(f, ", field \"{field}\"")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// A key to be added, checked as far as possible without other lines.
pub struct KeyLine {
    /// Device id.
    pub device: String,
    /// Key id.
    pub kid: String,
    /// Name of the tenant.
    pub tenant: String,
    /// Device class, which selects the rate limit.
    pub class: String,
    /// Signing profile.
    pub profile: Profile,
    /// Signature algorithm.
    pub algorithm: Algorithm,
    /// HMAC secret or public key, decoded.
    pub material: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for KeyLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyLine([redacted])")
    }
}

/// Every field is a string, so that problems are found here and not by the deserializer, whose errors quote the value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw<'l> {
    #[serde(borrow)]
    device: Option<Cow<'l, str>>,
    #[serde(borrow)]
    kid: Option<Cow<'l, str>>,
    #[serde(borrow)]
    tenant: Option<Cow<'l, str>>,
    #[serde(borrow)]
    class: Option<Cow<'l, str>>,
    #[serde(borrow)]
    profile: Option<Cow<'l, str>>,
    #[serde(borrow)]
    alg: Option<Cow<'l, str>>,
    #[serde(borrow)]
    secret: Option<Cow<'l, str>>,
    #[serde(borrow)]
    public_key: Option<Cow<'l, str>>,
}

const FIELDS: [&str; 8] = [
    "device",
    "kid",
    "tenant",
    "class",
    "profile",
    "alg",
    "secret",
    "public_key",
];

/// Field and reason of a problem whose line is known to the caller.
type Flaw = (Option<&'static str>, String);

/// Reads one line without its end into `buffer`; false at the end of the input.
///
/// # Errors
/// `InvalidData` for a line longer than [`LINE_BYTES_MAX`], or the reader's error.
pub fn read_line(reader: &mut impl BufRead, buffer: &mut Vec<u8>) -> io::Result<bool> {
    buffer.clear();
    let limit = LINE_BYTES_MAX as u64 + 1;
    let read = reader.take(limit).read_until(b'\n', buffer)?;
    if buffer.last() == Some(&b'\n') {
        buffer.pop();
    } else if read as u64 == limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("is longer than {LINE_BYTES_MAX} bytes"),
        ));
    }
    Ok(read > 0)
}

/// Parses line number `line`.
///
/// # Errors
/// The first problem of the line.
pub fn parse(line: u64, text: &[u8]) -> Result<KeyLine, Problem> {
    understand(text).map_err(|(field, reason)| Problem { line, field, reason })
}

fn understand(text: &[u8]) -> Result<KeyLine, Flaw> {
    let raw = from_json(text)?;
    let device = required("device", raw.device)?;
    let kid = required("kid", raw.kid)?;
    let tenant = named("tenant", raw.tenant, TENANT_BYTES_MAX)?;
    if tenant == HOUSE {
        return flaw(
            "tenant",
            "is reserved for records without a known signer; choose another name",
        );
    }
    let class = named("class", raw.class, CLASS_BYTES_MAX)?;
    let Some(profile) = Profile::from_name(&required("profile", raw.profile)?) else {
        return flaw("profile", "must be \"jws\" or \"webhook\"");
    };
    let algorithm = match (profile, raw.alg) {
        (Profile::Webhook, None) => Algorithm::HmacSha256,
        (Profile::Jws, None) => return flaw("alg", "is missing: \"HS256\" or \"Ed25519\""),
        (_, Some(alg)) => match Algorithm::from_name(&alg) {
            Some(algorithm) => algorithm,
            None => return flaw("alg", "must be \"HS256\" or \"Ed25519\""),
        },
    };
    let material = match (algorithm, raw.secret, raw.public_key) {
        (Algorithm::HmacSha256, Some(secret), None) => secret_of(profile, &secret)?,
        (Algorithm::Ed25519, None, Some(key)) => decode("public_key", &key)?,
        (Algorithm::HmacSha256, None, None) => return flaw("secret", "is missing"),
        (Algorithm::Ed25519, None, None) => return flaw("public_key", "is missing"),
        (Algorithm::HmacSha256, _, Some(_)) => {
            return flaw("public_key", "is for Ed25519; HS256 has a secret");
        }
        (Algorithm::Ed25519, Some(_), _) => return flaw("secret", "is for HS256; Ed25519 has a public_key"),
    };
    let line = KeyLine {
        device,
        kid,
        tenant,
        class,
        profile,
        algorithm,
        material,
    };
    line.check()?;
    Ok(line)
}

impl KeyLine {
    /// Applies the rules of the gate's keyring, so that no key is imported that a gate would refuse.
    fn check(&self) -> Result<(), Flaw> {
        let row = KeyRow {
            kid: &self.kid,
            device: &self.device,
            tenant: &self.tenant,
            class: &self.class,
            profile: self.profile,
            algorithm: self.algorithm,
            state: KeyState::Active,
            material: &self.material,
            device_token: &[b'0'; 22],
        };
        if self.device.chars().any(char::is_control) {
            return flaw("device", "must not contain control characters");
        }
        row.check().map_err(|error| {
            let field = match error {
                KeyringError::Kid => Some("kid"),
                KeyringError::Device => Some("device"),
                KeyringError::Secret => Some("secret"),
                KeyringError::PublicKey => Some("public_key"),
                KeyringError::WebhookAlgorithm => Some("alg"),
                KeyringError::KidTaken | KeyringError::TooManyKeys | KeyringError::Full => None,
            };
            (field, error.to_string())
        })
    }
}

fn from_json(text: &[u8]) -> Result<Raw<'_>, Flaw> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let raw: Result<Raw<'_>, _> = serde_path_to_error::deserialize(&mut reader);
    // The library's messages quote what they found, so only the place is taken from them.
    let raw = raw.map_err(|error| {
        let path = error.path().to_string();
        match FIELDS.into_iter().find(|field| *field == path) {
            Some(field) if error.inner().is_data() => {
                (Some(field), "must be a string, given only once".to_owned())
            }
            _ if error.inner().is_data() => (
                None,
                format!(
                    "must be one JSON object with these fields, each once: {}",
                    FIELDS.join(", ")
                ),
            ),
            _ => (
                None,
                format!("is not JSON (at column {})", error.inner().column()),
            ),
        }
    })?;
    if reader.end().is_err() {
        return Err((None, "has more text after its JSON object".to_owned()));
    }
    Ok(raw)
}

fn required(field: &'static str, value: Option<Cow<'_, str>>) -> Result<String, Flaw> {
    value
        .map(Cow::into_owned)
        .ok_or_else(|| (Some(field), "is missing".to_owned()))
}

fn named(field: &'static str, value: Option<Cow<'_, str>>, bytes_max: usize) -> Result<String, Flaw> {
    let name = required(field, value)?;
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let first = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if !first || name.len() > bytes_max || !name.bytes().all(inner) {
        let rule = "of a-z, 0-9, dot, underscore and hyphen, beginning with a letter or digit";
        return flaw(field, &format!("must be 1 to {bytes_max} {rule}"));
    }
    Ok(name)
}

fn secret_of(profile: Profile, text: &str) -> Result<Zeroizing<Vec<u8>>, Flaw> {
    match (profile, text.strip_prefix("whsec_")) {
        (Profile::Webhook, Some(base64)) => decode("secret", base64),
        (Profile::Webhook, None) => flaw("secret", "of a webhook key must begin with whsec_"),
        (Profile::Jws, Some(_)) => flaw("secret", "begins with whsec_, which is for webhook keys"),
        (Profile::Jws, None) => decode("secret", text),
    }
}

fn decode(field: &'static str, text: &str) -> Result<Zeroizing<Vec<u8>>, Flaw> {
    BASE64
        .decode(text)
        .map(Zeroizing::new)
        .map_err(|_| (Some(field), "must be standard base64".to_owned()))
}

fn flaw<T>(field: &'static str, reason: &str) -> Result<T, Flaw> {
    Err((Some(field), reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    /// RFC 8032, section 7.1, test 1.
    const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    fn jws(more: &str) -> String {
        format!(r#"{{"device":"d1","kid":"d1-a","tenant":"acme","class":"wearable","profile":"jws",{more}}}"#)
    }

    fn problem(text: &str) -> String {
        parse(7, text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn the_three_lines_of_the_contract_are_parsed() {
        let hmac = parse(
            1,
            jws(&format!(r#""alg":"HS256","secret":"{SECRET}""#)).as_bytes(),
        )
        .expect("HS256");
        assert_eq!((hmac.algorithm, hmac.material.len()), (Algorithm::HmacSha256, 32));
        let ed = parse(
            1,
            jws(&format!(r#""alg":"Ed25519","public_key":"{PUBLIC}""#)).as_bytes(),
        )
        .expect("Ed25519");
        assert_eq!((ed.algorithm, ed.material.len()), (Algorithm::Ed25519, 32));
        let webhook = format!(
            r#"{{"device":"d1","kid":"d1-a","tenant":"acme","class":"wearable","profile":"webhook","secret":"whsec_{SECRET}"}}"#
        );
        let webhook = parse(1, webhook.as_bytes()).expect("webhook");
        assert_eq!(
            (webhook.profile, webhook.algorithm),
            (Profile::Webhook, Algorithm::HmacSha256)
        );
    }

    #[test]
    fn problems_name_the_line_and_the_field_and_never_the_value() {
        let good = format!(r#""alg":"HS256","secret":"{SECRET}""#);
        let cases = [
            (
                jws(r#""alg":"HS256","secret":"hunter2""#),
                "line 7, field \"secret\": must be standard base64",
            ),
            (
                jws(r#""alg":"HS256","secret":"aHVudGVyMg==""#),
                "field \"secret\": an HMAC secret must be 32",
            ),
            (
                jws(r#""alg":"HS256","secret":["hunter2"]"#),
                "field \"secret\": must be a string",
            ),
            (
                jws(r#""alg":"none","secret":"hunter2""#),
                "field \"alg\": must be",
            ),
            (jws(r#""alg":"HS256""#), "field \"secret\": is missing"),
            (
                jws(&format!(r#""alg":"Ed25519","secret":"{SECRET}""#)),
                "field \"secret\": is for HS256",
            ),
            (
                jws(&format!(r#""alg":"HS256","secret":"whsec_{SECRET}""#)),
                "field \"secret\": begins with whsec_",
            ),
            (
                jws(r#""alg":"Ed25519","public_key":"AAAA""#),
                "field \"public_key\": an Ed25519 public key",
            ),
            (
                jws(&format!(r#"{good},"hunter2":1"#)),
                "must be one JSON object with these fields",
            ),
            (jws(&format!(r#"{good},"kid":"other""#)), "once"),
            (
                jws(&good).replace("acme", "pulsegate"),
                "field \"tenant\": is reserved",
            ),
            (
                jws(&good).replace("acme", "Hunter 2"),
                "field \"tenant\": must be 1 to 63",
            ),
            (
                jws(&good).replace("d1-a", "hunter\\\"2"),
                "field \"kid\": a key id must be",
            ),
            (
                jws(&good).replace("\"d1\"", "\"a\\u0000b\""),
                "field \"device\": must not contain control",
            ),
            (jws(&good) + "{}", "has more text after"),
            ("hunter2".to_owned(), "is not JSON (at column 1)"),
            ("[]".to_owned(), "line 7"),
            (String::new(), "is not JSON"),
        ];
        for (text, expected) in cases {
            let problem = problem(&text);
            assert!(
                problem.starts_with("line 7") && problem.contains(expected),
                "{text}: {problem}"
            );
            assert!(!problem.contains("hunter"), "{problem}");
        }
    }

    #[test]
    fn a_line_has_a_limit() {
        let mut buffer = Vec::new();
        let mut good = io::Cursor::new([vec![b'a'; LINE_BYTES_MAX], b"\nb".to_vec()].concat());
        assert!(read_line(&mut good, &mut buffer).expect("at the limit"));
        assert_eq!(buffer.len(), LINE_BYTES_MAX);
        assert!(read_line(&mut good, &mut buffer).expect("no line end at the end") && buffer == b"b");
        assert!(!read_line(&mut good, &mut buffer).expect("the end"));
        let mut long = io::Cursor::new(vec![b'a'; LINE_BYTES_MAX + 1]);
        assert!(read_line(&mut long, &mut buffer).is_err());
    }

    proptest! {
        #[test]
        fn anything_at_all_is_a_line_or_a_problem(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(parse(1, &bytes));
        }
    }
}
