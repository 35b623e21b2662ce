//! The environment of the contenders: topics, databases, keys and a fleet of one profile, created for the session and
//! removed with it.
//!
//! Everything is created by the commands that an operator uses (`topology apply`, `device import`), under unique names,
//! so that a stack in use is not disturbed and nothing is left behind.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use pulsegate::config::{Inputs, layers};
use pulsegate_loadtest::fleet::{self, Fleet, Profiles, Shape, keys};
use pulsegate_loadtest::kafka::Kafka;
use pulsegate_testkit::corner::drop_databases;
use pulsegate_testkit::{root, stack};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde::Serialize;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Number of devices in the fleet.
pub const DEVICES: u32 = 10_000;
/// Number of partitions of each topic.
pub const PARTITIONS: i32 = 8;
/// The seed of the fleet: arbitrary, but always the same.
const SEED: u64 = 3;
/// How long one request to the broker may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);
/// The setting of the superuser's URL, as an environment variable.
const ADMIN_URL: &str = "PULSEGATE_DATABASES__ADMIN_URL";

/// How the fleet signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Standard Webhooks.
    Webhook,
    /// Detached JWS with HS256.
    Jws,
}

impl Profile {
    /// The name in reports and in topic names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Jws => "jws",
        }
    }
}

/// The topics of one run.
pub struct Topics {
    /// Name of the consumed topic.
    pub raw: String,
    outputs: String,
}

impl Topics {
    /// Name of the topic for sealed or copied events.
    pub fn clean(&self) -> String {
        format!("{}.clean", self.outputs)
    }

    /// The consumer group, unique to the run.
    pub fn group(&self) -> &str {
        &self.outputs
    }

    fn written(&self) -> Vec<String> {
        ["clean", "deadletter", "ledger", "findings"]
            .map(|last| format!("{}.{last}", self.outputs))
            .to_vec()
    }

    fn settings(&self) -> Vec<String> {
        let mut settings = vec![
            format!("topics.raw={}", self.raw),
            format!("gate.group={}", self.outputs),
        ];
        for name in self.written() {
            let last = name.rsplit('.').next().unwrap_or_default();
            settings.push(format!("topics.{last}={name}"));
        }
        settings
    }
}

/// The environment of the runs of one profile.
pub struct Session {
    /// How the fleet signs.
    pub profile: Profile,
    /// Client configuration of the load generator.
    pub kafka: Kafka,
    /// Client configuration of the benchmark itself.
    pub client: ClientConfig,
    name: String,
    directory: TempDir,
    settings: Vec<String>,
    admin_url: String,
    runs: AtomicUsize,
    interrupted: Arc<AtomicBool>,
    runtime: Runtime,
}

impl Session {
    /// Creates the databases and keys.
    pub fn open(profile: Profile, settings: &[String]) -> Result<Self> {
        let inputs = Inputs {
            set: settings.to_vec(),
            environment: std::env::vars().collect(),
            ..Inputs::default()
        };
        let config = layers::load(&inputs)?.config;
        let interrupted = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&interrupted))?;
        let name = format!("bench-{}-{}", std::process::id(), profile.name());
        let mut session = Self {
            profile,
            kafka: Kafka {
                brokers: config.kafka.brokers.clone(),
                settings: settings_of(&config.kafka.client()),
            },
            client: config.kafka.client(),
            directory: tempfile::tempdir()?,
            settings: settings.to_vec(),
            admin_url: stack::database_url(),
            runs: AtomicUsize::new(0),
            interrupted,
            runtime: Builder::new_current_thread().enable_all().build()?,
            name,
        };
        session.configure_for_the_session()?;
        let topics = session.topics(None)?;
        let import = session.directory().join("keys.jsonl");
        let lines: Vec<_> = session.fleet(&topics.raw).import_lines().collect();
        fs::write(&import, lines.join("\n") + "\n")?;
        session.run(
            &["device", "import", &import.to_string_lossy()],
            &topics.settings(),
        )?;
        session.delete(&topics)?;
        Ok(session)
    }

    fn configure_for_the_session(&mut self) -> Result<()> {
        let kek = self.directory().join("kek");
        let mut random = [0_u8; 32];
        getrandom::fill(&mut random)
            .map_err(|error| anyhow::anyhow!("failed to read random bytes: {error}"))?;
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&kek)?
            .write_all(&random)?;
        let logins = self.directory().join("logins");
        self.settings.extend([
            "kek.source=file".to_owned(),
            format!("kek.file={}", kek.display()),
            format!("databases.prefix={}", self.database_prefix()),
            format!("databases.logins_directory={}", logins.display()),
            format!("topology.partitions={PARTITIONS}"),
            // Any free port: the endpoints are not used, and several gates may run on this machine.
            "http.listen=127.0.0.1:0".to_owned(),
        ]);
        Ok(())
    }

    fn database_prefix(&self) -> String {
        format!("pulsegate_{}_", self.name.replace('-', "_"))
    }

    /// The directory for files of the session.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Passes the session's settings and the given ones to a command. The superuser's URL stays off the command line.
    pub fn configure(&self, command: &mut Command, settings: &[String]) {
        for setting in self.settings.iter().chain(settings) {
            command.args(["--set", setting]);
        }
        // Where the default configuration finds the schemas.
        command.current_dir(root());
        command.env(ADMIN_URL, &self.admin_url);
    }

    fn run(&self, arguments: &[&str], settings: &[String]) -> Result<()> {
        let mut command = Command::new(pulsegate_testkit::binary());
        command.args(arguments);
        self.configure(&mut command, settings);
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "pulsegate {}: {said}",
            arguments.join(" ")
        );
        Ok(())
    }

    /// Creates new output topics for `raw`, or for a new raw topic.
    pub fn topics(&self, raw: Option<&str>) -> Result<Topics> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let outputs = format!("{}.{run}", self.name);
        let topics = Topics {
            raw: raw.map_or_else(|| format!("{outputs}.raw"), str::to_owned),
            outputs,
        };
        self.run(&["topology", "apply"], &topics.settings())?;
        Ok(topics)
    }

    /// The settings of a contender for these topics.
    pub fn settings(&self, topics: &Topics, workers: usize) -> Vec<String> {
        let mut settings = topics.settings();
        settings.push(format!("gate.workers={workers}"));
        settings
    }

    /// Deletes the output topics of one run. Its raw topic stays until the session ends.
    pub fn delete(&self, topics: &Topics) -> Result<()> {
        self.delete_topics(&topics.written())
    }

    fn delete_topics(&self, names: &[String]) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client.create()?;
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let options = AdminOptions::new().operation_timeout(Some(ASK_TIMEOUT));
        for deleted in self.runtime.block_on(admin.delete_topics(&names, &options))? {
            deleted.map_err(|(topic, error)| anyhow::anyhow!("failed to delete {topic}: {error}"))?;
        }
        Ok(())
    }

    /// The fleet for this raw topic, always with the same devices and keys.
    pub fn fleet(&self, raw: &str) -> Fleet {
        let profile = match self.profile {
            Profile::Webhook => keys::Profile::Webhook,
            Profile::Jws => keys::Profile::JwsHs256,
        };
        Fleet::new(fleet::Options {
            devices: DEVICES,
            topic: raw.to_owned(),
            profiles: Profiles::only(profile),
            shape: Shape::Compact,
            ..fleet::Options::new(SEED)
        })
    }

    /// A progress bar.
    pub fn bar(&self, what: &str, records: u64) -> ProgressBar {
        let style = "{msg:28} {wide_bar} {human_pos:>10} of {human_len}, {per_sec}, {elapsed}";
        // A constant, so parsing never fails.
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(records)
            .with_style(style)
            .with_message(format!("{:7} {what}", self.profile.name()))
    }

    /// An error once SIGINT or SIGTERM was received, so that the session is removed in an orderly way.
    pub fn go_on(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        let consumer: BaseConsumer = self.client.create()?;
        let metadata = consumer.fetch_metadata(None, ASK_TIMEOUT)?;
        let ours = metadata.topics().iter().map(|topic| topic.name().to_owned());
        let ours: Vec<_> = ours
            .filter(|topic| topic.starts_with(&format!("{}.", self.name)))
            .collect();
        if !ours.is_empty() {
            self.delete_topics(&ours)?;
        }
        let prefix = self.database_prefix();
        self.runtime.block_on(drop_databases(&self.admin_url, &prefix))?;
        Ok(())
    }
}

/// Client settings in the form that the load generator takes.
fn settings_of(client: &ClientConfig) -> BTreeMap<String, String> {
    client
        .config_map()
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            let prefix = self.database_prefix();
            eprintln!(
                "failed to remove topics {}.*, databases and roles {prefix}*; delete them by hand: {error}",
                self.name
            );
        }
    }
}
