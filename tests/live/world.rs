//! An isolated world for one test: a corner of the stack, a fleet, and gates that can be started, stopped and killed.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use pulsegate::config::Config;
use pulsegate_loadtest::fleet::{Fleet, Made};
use pulsegate_loadtest::kafka::{Kafka, Producer};
use pulsegate_loadtest::oracle::{self, Keys, Rate, Report};
use pulsegate_loadtest::replay::series::Series;
use pulsegate_loadtest::replay::{self, Recording, Replayed, Resigner, Speed, Target};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;

use crate::support::{Corner, in_a_corner};

/// Limit for anything a test waits for. Generous: a loaded machine must not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Interval at which a condition is checked.
const LOOK: Duration = Duration::from_millis(50);

/// Everything that one test uses exclusively.
pub struct World {
    pub config: Config,
    pub directory: PathBuf,
    file: PathBuf,
    _corner: Corner,
}

/// Held exclusively by a test that stops servers.
static SERVERS: RwLock<()> = RwLock::new(());

/// Runs `test` in an isolated world with the topology applied. `settings` is TOML added to the configuration.
pub fn in_a_world(name: &str, settings: &str, test: impl FnOnce(&World) + Send + 'static) {
    let _shared = SERVERS.read().unwrap_or_else(PoisonError::into_inner);
    run(name, settings, test);
}

/// As [`in_a_world`], while no other world exists.
pub fn alone_in_a_world(name: &str, settings: &str, test: impl FnOnce(&World) + Send + 'static) {
    let _alone = SERVERS.write().unwrap_or_else(PoisonError::into_inner);
    run(name, settings, test);
}

fn run(name: &str, settings: &str, test: impl FnOnce(&World) + Send + 'static) {
    let settings = settings.to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(in_a_corner(name, move |corner| async move {
        // The test blocks, and talks to the world through processes: it needs a thread and no runtime.
        let world = World::new(corner, &settings);
        let result = tokio::task::spawn_blocking(move || {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&world)))
        });
        if let Err(panic) = result.await.expect("the test's thread") {
            std::panic::resume_unwind(panic);
        }
    }));
}

impl World {
    fn new(corner: Corner, settings: &str) -> Self {
        let directory = corner
            .config
            .databases
            .logins_directory
            .parent()
            .expect("a directory")
            .to_owned();
        let file = directory.join("pulsegate.toml");
        let config = &corner.config;
        let topics = &config.topics;
        let (kek, schemas) = (
            directory.join("kek"),
            Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas"),
        );
        let metrics = schemas.join("metrics.toml");
        fs::write(&kek, [7; 32]).expect("written");
        let mut text = File::create(&file).expect("created");
        write!(
            text,
            "kafka.brokers = {:?}\ndatabases.prefix = {:?}\ndatabases.logins_directory = {:?}\n\
             topology.partitions = {}\ntopics.raw = {:?}\ntopics.clean = {:?}\ntopics.deadletter = {:?}\n\
             topics.ledger = {:?}\ntopics.findings = {:?}\nkek.source = \"file\"\nkek.file = {kek:?}\n\
             event.directory = {schemas:?}\nwatch.metrics_file = {metrics:?}\ngate.group = {:?}\nwatch.group = {:?}\n\
             watch.groups.wait_s = 5\n{settings}",
            config.kafka.brokers,
            config.databases.prefix,
            config.databases.logins_directory,
            config.topology.partitions.expect("set by the corner"),
            topics.raw,
            topics.clean,
            topics.deadletter,
            topics.ledger,
            topics.findings,
            topics.raw,
            topics.raw,
        )
        .expect("written");
        let world = Self {
            config: config.clone(),
            directory,
            file,
            _corner: corner,
        };
        world.done(&["topology", "apply"]);
        world
    }

    /// The binary, configured for this world.
    pub fn pulsegate(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pulsegate"));
        command.arg("--config").arg(&self.file).env(
            "PULSEGATE_DATABASES__ADMIN_URL",
            self.config.databases.admin_url.expose(),
        );
        command.current_dir(&self.directory).env_remove("PHI_MASTER_KEY");
        command
    }

    /// Runs a command to completion.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.pulsegate().args(arguments).output().expect("started")
    }

    /// Runs a command that must succeed, and returns its output.
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "pulsegate {arguments:?}: {}\n{out}\n{err}",
            output.status
        );
        out.into_owned()
    }

    /// Imports the fleet's keys.
    pub fn import(&self, fleet: &Fleet) {
        let file = self.directory.join("keys.jsonl");
        let lines: Vec<_> = fleet.import_lines().collect();
        fs::write(&file, lines.join("\n")).expect("written");
        self.done(&["device", "import", file.to_str().expect("a path in UTF-8")]);
    }

    /// Produces that many further events of the fleet.
    pub fn produce(&self, fleet: &mut Fleet, records: u64) -> Made {
        fleet
            .produce(&self.kafka(), records, &mut |_| {})
            .expect("produced")
    }

    /// Deletes all records of the topic, as retention would.
    pub fn delete_records(&self, topic: &str) {
        let admin: AdminClient<DefaultClientContext> = self.config.kafka.client().create().expect("a client");
        let mut ends = TopicPartitionList::new();
        for partition in 0..self.partitions() {
            ends.add_partition_offset(topic, partition, Offset::End)
                .expect("a valid offset");
        }
        let options = AdminOptions::new();
        Handle::current()
            .block_on(admin.delete_records(&ends, &options))
            .expect("deleted");
    }

    /// Sets one setting of a topic, and removes all others of its own.
    pub fn configure_topic(&self, topic: &str, name: &str, value: &str) {
        let admin: AdminClient<DefaultClientContext> = self.config.kafka.client().create().expect("a client");
        let alteration = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
        let altered = Handle::current().block_on(admin.alter_configs([&alteration], &AdminOptions::new()));
        for result in altered.expect("an answer") {
            result.expect("altered");
        }
    }

    /// Deletes the topic with all its records and creates it again.
    pub fn remake_topic(&self, topic: &str) {
        let admin: AdminClient<DefaultClientContext> = self.config.kafka.client().create().expect("a client");
        let options = AdminOptions::new();
        Handle::current()
            .block_on(admin.delete_topics(&[topic], &options))
            .expect("asked");
        let client = self.group();
        wait_for("the topic to be gone", || {
            let all = client.fetch_metadata(None, LOOK * 100).expect("metadata");
            all.topics().iter().all(|known| known.name() != topic)
        });
        self.done(&["topology", "apply"]);
    }

    /// Replays recordings into the raw topic, each as the fleet's next device. Recordings with relative times begin at
    /// `start_ms`.
    pub fn play(&self, fleet: &Fleet, recordings: Vec<Series>, start_ms: i64) -> Replayed {
        let lines: Vec<_> = fleet.signing_lines().collect();
        let keys = Keys::read(lines.iter().map(String::as_str)).expect("the fleet's own lines");
        let parsed: Vec<_> = lines
            .iter()
            .map(|line| serde_json::from_str(line).expect("a line"))
            .collect();
        let audience = format!("local/{}", self.config.topics.raw);
        let mut resigner = Resigner::new(&parsed, keys, audience, 1);
        let recordings: Vec<_> = recordings
            .into_iter()
            .zip(fleet.keys())
            .map(|(series, key)| Recording {
                name: key.device.clone(),
                device: key.device.clone(),
                series,
            })
            .collect();
        let producer = Producer::new(&self.kafka(), &self.config.topics.raw, "none").expect("a producer");
        let mut target = Target::new(producer, Speed::Max, false);
        let mut replayed = Replayed::default();
        replay::recordings(&recordings, start_ms, &mut resigner, &mut target, &mut replayed)
            .expect("replayed");
        target.producer.finish().expect("delivered");
        replayed
    }

    pub fn kafka(&self) -> Kafka {
        Kafka::at(&self.config.kafka.brokers)
    }

    /// Starts a gate and returns at once. `sets` are `a.b=c`.
    pub fn start_gate(&self, instance: &str, sets: &[&str], flags: &[&str]) -> Gate {
        self.start("gate", instance, sets, flags)
    }

    /// Starts a watch and returns at once.
    pub fn start_watch(&self, instance: &str, sets: &[&str]) -> Gate {
        self.start("watch", instance, sets, &[])
    }

    /// Starts a watch, and returns when it works on all its lanes.
    pub fn watch(&self, instance: &str) -> Gate {
        let mut watch = self.start_watch(instance, &[]);
        watch.wait_ready();
        watch
    }

    fn start(&self, role: &str, instance: &str, sets: &[&str], flags: &[&str]) -> Gate {
        // Bound and released: the port is free, and nothing else here uses a port it was not given.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let log = self.directory.join(format!("{role}-{instance}-{port}.log"));
        let file = File::create(&log).expect("created");
        let mut command = self.pulsegate();
        command.args([
            "--set",
            &format!("http.listen=127.0.0.1:{port}"),
            "--set",
            &format!("{role}.instance={instance}"),
        ]);
        for set in sets {
            command.args(["--set", set]);
        }
        command.arg(role).args(flags).stdin(Stdio::null());
        command.stdout(file.try_clone().expect("cloned")).stderr(file);
        Gate {
            child: command.spawn().expect("started"),
            port,
            log,
        }
    }

    /// Starts a gate, and returns when it works on all its lanes.
    pub fn gate(&self, instance: &str) -> Gate {
        let mut gate = self.start_gate(instance, &[], &[]);
        gate.wait_ready();
        gate
    }

    /// Waits until the group has committed the whole raw topic.
    pub fn settle(&self, gates: &mut [&mut Gate]) {
        let group = self.group();
        let begun = Instant::now();
        while self.behind(&group) != 0 {
            gates.iter_mut().for_each(|gate| gate.expect_running());
            assert!(
                begun.elapsed() < PATIENCE,
                "the group has not committed everything after {PATIENCE:?}"
            );
            std::thread::sleep(LOOK);
        }
    }

    /// Number of raw offsets that the group has not committed.
    pub fn behind_by(&self) -> i64 {
        self.behind(&self.group())
    }

    /// Number of raw offsets that the group has committed.
    pub fn settled(&self) -> u64 {
        let group = self.group();
        let Ok(committed) = group.committed_offsets(self.lanes(), LOOK * 100) else {
            return 0;
        };
        let offsets = committed
            .elements()
            .into_iter()
            .map(|element| element.offset().to_raw().unwrap_or(0));
        offsets.map(|offset| offset.max(0).cast_unsigned()).sum()
    }

    fn group(&self) -> BaseConsumer {
        let mut client = self.config.kafka.client();
        client
            .set("group.id", &self.config.topics.raw)
            .create()
            .expect("a client")
    }

    /// Number of partitions of each topic.
    pub fn partitions(&self) -> i32 {
        self.config.topology.partitions.expect("set by the corner") as i32
    }

    fn lanes(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.config.topics.raw, 0, self.partitions() - 1);
        list
    }

    fn behind(&self, group: &BaseConsumer) -> i64 {
        let raw = &self.config.topics.raw;
        let Ok(committed) = group.committed_offsets(self.lanes(), LOOK * 100) else {
            return i64::MAX;
        };
        let behind = committed.elements().into_iter().map(|element| {
            let (low, high) = group
                .fetch_watermarks(raw, element.partition(), LOOK * 100)
                .unwrap_or((0, i64::MAX));
            match element.offset() {
                Offset::Offset(offset) => high - offset,
                _ => high - low,
            }
        });
        behind.sum()
    }

    /// The oracle's report on the topics.
    pub fn judge(&self, fleet: &Fleet) -> Report {
        self.judge_with(fleet, |_| {})
    }

    /// As [`World::judge`], with a changed configuration of the oracle.
    pub fn judge_with(&self, fleet: &Fleet, configure: impl FnOnce(&mut oracle::Config)) -> Report {
        let mut config = oracle::Config::new(self.kafka());
        let topics = &self.config.topics;
        config.topics = oracle::Topics {
            raw: topics.raw.clone(),
            clean: topics.clean.clone(),
            deadletter: topics.deadletter.clone(),
            ledger: topics.ledger.clone(),
        };
        config.planted = fleet.planted();
        configure(&mut config);
        let lines: Vec<_> = fleet.import_lines().collect();
        let keys = oracle::Keys::read(lines.iter().map(String::as_str)).expect("the fleet's own lines");
        oracle::verify(&config, &keys, &mut |_| {}).expect("the oracle can read the topics")
    }

    /// Fails unless the oracle finds no problem; returns its report.
    pub fn judged_good(&self, fleet: &Fleet) -> Report {
        good(self.judge(fleet))
    }

    /// As [`World::judged_good`], for settings that [limit](limited_to) every device to a rate.
    pub fn judged_good_at(&self, fleet: &Fleet, rate: Rate) -> Report {
        good(self.judge_with(fleet, |config| config.rules.rate = Some(rate)))
    }
}

fn good(report: Report) -> Report {
    assert!(report.is_good(), "{}\n{:#?}", report.table(), report.problems);
    assert!(report.total.is_conserved());
    report
}

/// A rate that a fast fleet exceeds: some of its good records are limited, and the oracle says which.
pub const LOW_RATE: Rate = Rate {
    events_per_minute: 600,
    burst: 30,
};

/// Settings that limit every device to a rate.
pub fn limited_to(rate: Rate) -> String {
    let Rate {
        events_per_minute,
        burst,
    } = rate;
    format!("gate.admit.rate.events_per_minute = {events_per_minute}\ngate.admit.rate.burst = {burst}\n")
}

/// A running gate, or a running watch.
pub struct Gate {
    child: Child,
    port: u16,
    pub log: PathBuf,
}

impl Gate {
    pub fn expect_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("waited") {
            panic!("the process ended with {status}");
        }
    }

    pub fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the process owns lanes and all of them are open.
    pub fn wait_ready(&mut self) {
        wait_for("the process to be ready", || {
            self.expect_running();
            self.get("/readyz").is_some_and(|(status, _)| status == 200)
        });
    }

    /// Status and body of a response.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Some((status, body.to_owned()))
    }

    /// Number of lanes that it owns, by its own metrics.
    pub fn lanes(&mut self) -> usize {
        self.expect_running();
        let metrics = self.get("/metrics").map(|(_, body)| body).unwrap_or_default();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("pulsegate_lanes_assigned "));
        line.and_then(|count| count.parse::<f64>().ok())
            .map_or(0, |count| count as usize)
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args([signal, &pid])
            .status()
            .expect("kill is there");
        assert!(status.success(), "kill {signal} {pid}");
    }

    /// Kills it with SIGKILL; it cannot log anything further.
    pub fn kill(mut self) -> PathBuf {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited");
        self.log.clone()
    }

    /// Asks it to stop, and waits until it has ended.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal("-TERM");
        self.wait()
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the process to end", || {
            status = self.child.try_wait().expect("waited");
            status.is_some()
        });
        status.expect("the process ended")
    }
}

impl Drop for Gate {
    /// A failed test must not leave a process behind, and the process's log may explain the failure.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.log.display(), self.logged());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks `condition` repeatedly until it holds; fails after [`PATIENCE`].
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(LOOK);
    }
}
