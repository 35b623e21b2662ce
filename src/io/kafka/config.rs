//! The connection to Kafka, and the names of the topics.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use rdkafka::ClientConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use pulsegate_settings::{Check, Secret};

/// The connection to Kafka.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bootstrap brokers, `host:port` separated by commas. No default; the profile `local` has `127.0.0.1:9092`.
    pub brokers: String,
    /// Encryption and authentication of connections.
    pub security: Security,
    /// Any other librdkafka property, by its own name (`"session.timeout.ms" = "45000"`). Properties that the gate must
    /// set itself are refused. In environment variables, underscores stand for the dots:
    /// `PULSEGATE_KAFKA__PROPERTIES__SESSION_TIMEOUT_MS`.
    pub properties: Properties,
}

/// Encryption and authentication of connections to Kafka.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    /// Encryption and authentication. Default: `plaintext`, which only the environment `local` accepts.
    pub protocol: Protocol,
    /// The SASL mechanism. Default: `SCRAM-SHA-512`.
    pub sasl_mechanism: Mechanism,
    /// The SASL user name.
    pub sasl_username: String,
    /// The SASL password.
    pub sasl_password: Secret,
    /// A PEM file with the certificate authorities that brokers are verified against. Default: those of the system.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with this client's certificate, for mutual TLS.
    pub certificate_file: Option<PathBuf>,
    /// A PEM file with this client's private key, for mutual TLS.
    pub key_file: Option<PathBuf>,
    /// The password of the private key.
    pub key_password: Secret,
}

/// Encryption and authentication of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Neither encryption nor authentication.
    #[default]
    Plaintext,
    /// TLS, with a client certificate if one is given.
    Ssl,
    /// SASL without encryption.
    SaslPlaintext,
    /// SASL inside TLS.
    SaslSsl,
}

impl Protocol {
    /// The name that librdkafka uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    const fn encrypted(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    const fn sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mechanism {
    /// The password in clear; allowed only inside TLS.
    #[serde(rename = "PLAIN")]
    Plain,
    /// SCRAM with SHA-256 (RFC 7677).
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// SCRAM as in RFC 7677, with SHA-512.
    #[default]
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    /// The name that librdkafka uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// librdkafka properties by name. Those that hold secrets are printed as `[redacted]`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Properties(pub BTreeMap<String, String>);

impl Properties {
    /// Matches parts of the name, because plugins and later versions bring properties that are in no list.
    fn is_secret(name: &str) -> bool {
        const PARTS: [&str; 9] = [
            "password",
            "secret",
            "token",
            "pem",
            "key",
            "credential",
            "jaas",
            "oauthbearer",
            "sasl.username",
        ];
        PARTS.iter().any(|part| name.contains(part))
    }

    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| {
            (
                name.as_str(),
                if Self::is_secret(name) {
                    pulsegate_settings::REDACTED
                } else {
                    value.as_str()
                },
            )
        })
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.shown()).finish()
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.shown())
    }
}

/// Properties that can't be passed through, each with the reason or the setting to use instead.
const REFUSED: [(&str, &str); 22] = [
    ("bootstrap.servers", "use kafka.brokers"),
    ("metadata.broker.list", "use kafka.brokers"),
    ("security.protocol", "use kafka.security.protocol"),
    ("sasl.mechanism", "use kafka.security.sasl_mechanism"),
    ("sasl.mechanisms", "use kafka.security.sasl_mechanism"),
    ("sasl.username", "use kafka.security.sasl_username"),
    ("sasl.password", "use kafka.security.sasl_password"),
    ("ssl.ca.location", "use kafka.security.ca_file"),
    ("ssl.certificate.location", "use kafka.security.certificate_file"),
    ("ssl.key.location", "use kafka.security.key_file"),
    ("ssl.key.password", "use kafka.security.key_password"),
    ("group.id", "use gate.group"),
    (
        "transactional.id",
        "it is composed of gate.group, gate.instance and the worker's index",
    ),
    ("transaction.timeout.ms", "use gate.transaction_timeout_ms"),
    (
        "enable.auto.commit",
        "offsets are committed inside the transaction",
    ),
    (
        "enable.idempotence",
        "a transactional producer is always idempotent",
    ),
    (
        "isolation.level",
        "reading uncommitted records would break exactly-once",
    ),
    (
        "auto.offset.reset",
        "a lane whose next offset is gone must report what is lost, and not continue elsewhere",
    ),
    (
        "enable.partition.eof",
        "each client sets it itself; elsewhere the end of a log would be taken for a gap in it",
    ),
    (
        "partition.assignment.strategy",
        "lanes are handed over one by one, which takes cooperative-sticky",
    ),
    ("group.protocol", "lanes are handed over by the classic protocol"),
    (
        "delivery.report.only.error",
        "only failed deliveries are evaluated",
    ),
];

impl Config {
    /// The settings that all clients share; callers add those of their role.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        for (name, value) in &self.properties.0 {
            client.set(name, value);
        }
        client.set("bootstrap.servers", &self.brokers);
        self.security.apply(&mut client);
        client
    }

    /// Reports invalid settings.
    pub fn check(&self, check: &mut Check) {
        if self.brokers.is_empty() {
            check.problem("brokers", "must name at least one broker as host:port");
        }
        for name in self.properties.0.keys() {
            if let Some((_, instead)) = REFUSED.iter().find(|(refused, _)| refused == name) {
                check.problem(
                    &format!("properties.{name}"),
                    format!("can't be passed through: {instead}"),
                );
            }
        }
        let off = |name: &str, value: &str| self.properties.0.get(name).is_some_and(|found| found == value);
        for (name, value) in [
            ("enable.ssl.certificate.verification", "false"),
            ("ssl.endpoint.identification.algorithm", "none"),
        ] {
            if !check.is_local() && off(name, value) {
                check.problem(
                    &format!("properties.{name}"),
                    "brokers must be verified outside the environment local",
                );
            }
        }
        check.section("security", |check| self.security.check(check));
    }
}

impl Security {
    fn apply(&self, client: &mut ClientConfig) {
        client.set("security.protocol", self.protocol.as_str());
        if self.protocol.sasl() {
            client.set("sasl.mechanism", self.sasl_mechanism.as_str());
            client.set("sasl.username", &self.sasl_username);
            client.set("sasl.password", self.sasl_password.expose());
        }
        if self.protocol.encrypted() {
            let files = [
                ("ssl.ca.location", &self.ca_file),
                ("ssl.certificate.location", &self.certificate_file),
                ("ssl.key.location", &self.key_file),
            ];
            for (name, file) in files {
                if let Some(file) = file {
                    client.set(name, file.to_string_lossy());
                }
            }
            if !self.key_password.is_empty() {
                client.set("ssl.key.password", self.key_password.expose());
            }
        }
    }

    fn check(&self, check: &mut Check) {
        if !check.is_local() && !self.protocol.encrypted() {
            check.problem(
                "protocol",
                "must be ssl or sasl_ssl outside the environment local",
            );
        }
        if self.protocol.sasl() {
            if self.sasl_username.is_empty() {
                check.problem("sasl_username", "is needed for SASL");
            }
            if self.sasl_password.is_empty() {
                check.problem("sasl_password", "is needed for SASL");
            }
            if self.sasl_mechanism == Mechanism::Plain && !self.protocol.encrypted() {
                check.problem(
                    "sasl_mechanism",
                    "PLAIN sends the password in clear: use sasl_ssl or SCRAM",
                );
            }
        }
        if self.certificate_file.is_some() != self.key_file.is_some() {
            check.problem(
                "key_file",
                "a client certificate and its key go together: give both or none",
            );
        }
    }
}

/// The names of the topics.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Topics {
    /// The topic that devices produce to. Default: `biometrics.raw`.
    pub raw: String,
    /// The topic of sealed events. Default: `biometrics.clean`.
    pub clean: String,
    /// The topic of rejected records, sealed as received. Default: `biometrics.deadletter`.
    pub deadletter: String,
    /// The topic with the outcome of every raw offset. Default: `biometrics.ledger`.
    pub ledger: String,
    /// The topic of the watch's findings. Default: `biometrics.findings`.
    pub findings: String,
}

impl Default for Topics {
    fn default() -> Self {
        let name = |last: &str| format!("biometrics.{last}");
        Self {
            raw: name("raw"),
            clean: name("clean"),
            deadletter: name("deadletter"),
            ledger: name("ledger"),
            findings: name("findings"),
        }
    }
}

impl Topics {
    /// Reports invalid settings.
    pub fn check(&self, check: &mut Check) {
        let all = [
            ("raw", &self.raw),
            ("clean", &self.clean),
            ("deadletter", &self.deadletter),
            ("ledger", &self.ledger),
            ("findings", &self.findings),
        ];
        for (index, (field, name)) in all.iter().enumerate() {
            // The rule of Kafka's `Topic.validate`.
            let letters = name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            if name.is_empty() || name.len() > 249 || !letters || matches!(name.as_str(), "." | "..") {
                check.problem(
                    field,
                    "must be 1 to 249 letters, digits, dots, underscores and hyphens",
                );
            }
            if all[..index].iter().any(|(_, other)| other == name) {
                check.problem(field, "must not be the name of another topic here");
            }
        }
    }
}
