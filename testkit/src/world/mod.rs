//! An isolated world for one test: a corner of the stack, a fleet, and gates that can be started, stopped and killed.

mod fleet;
mod process;

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use pulsegate::config::Config;
use pulsegate_loadtest::kafka::Kafka;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;

pub use self::fleet::{LOW_RATE, limited_to};
pub use self::process::Gate;
use crate::corner::{Corner, in_a_corner};
use crate::wait::{LOOK, PATIENCE, wait_for};
use crate::{binary, root};

/// Everything that one test uses exclusively.
pub struct World {
    /// Its configuration.
    pub config: Config,
    /// Directory for all its files, removed at the end.
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
        let (kek, schemas) = (directory.join("kek"), root().join("schemas"));
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
        let mut command = Command::new(binary());
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

    /// The cluster, for the load tester.
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
}
