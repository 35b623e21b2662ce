//! `pulsegate open` on records that a real gate sealed.

use std::io::Write as _;
use std::process::{Output, Stdio};

use pulsegate_loadtest::capture::kcat;
use pulsegate_loadtest::fleet::{Fleet, Hostile};
use pulsegate_loadtest::kafka::{captured, read_all, watermarks};
use serde_json::Value;

use crate::audit;
use crate::main_path::fleet;
use pulsegate_testkit::world::{World, in_a_world};

/// The clean topic as `kcat -C -J` prints it, one line per record.
fn clean_lines(world: &World) -> Vec<Vec<u8>> {
    let (kafka, topic) = (world.kafka(), &world.config.topics.clean);
    let mut lines = Vec::new();
    let ranges = watermarks(&kafka, topic).expect("the clean topic is there");
    read_all(&kafka, topic, &ranges, |message| {
        let mut line = Vec::new();
        kcat::write_line(&captured(message), &mut line).expect("written to memory");
        lines.push(line);
        Ok(())
    })
    .expect("read");
    lines
}

fn open(world: &World, lines: &[Vec<u8>], more: &[&str]) -> Output {
    let mut child = world
        .pulsegate()
        .args(["--json"])
        .args(more)
        .arg("open")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut stdin = child.stdin.take().expect("piped");
    let lines = lines.concat();
    // In a separate thread, or both sides could wait for each other with full pipes.
    let writer = std::thread::spawn(move || stdin.write_all(&lines));
    let output = child.wait_with_output().expect("ended");
    // `open` may have refused before it read everything.
    let _ = writer.join().expect("the writer's thread");
    output
}

/// Events that `open` printed.
fn events(output: &Output) -> Vec<Value> {
    let lines = std::str::from_utf8(&output.stdout).expect("text").lines();
    lines
        .map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON")["event"].take())
        .collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Moves the value `what` to the pointer `to` in another clean record.
fn moved(mut into: Value, to: &str, what: &Value) -> Vec<u8> {
    let mut event: Value = serde_json::from_str(into["payload"].as_str().expect("JSON")).expect("JSON");
    *event.pointer_mut(to).expect("there") = what.clone();
    into["payload"] = event.to_string().into();
    let mut line = into.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// A fleet, and its 300 events as a gate sealed them.
fn sealed(world: &World) -> (Fleet, Vec<Vec<u8>>) {
    let mut fleet = fleet(world, 10, Hostile::default());
    world.import(&fleet);
    world.produce(&mut fleet, 300);
    let mut gate = world.gate("one");
    world.settle(&mut [&mut gate]);
    assert!(gate.terminate().success());
    (fleet, clean_lines(world))
}

#[test]
fn open_shows_what_was_planted_and_refuses_what_was_moved() {
    in_a_world("open", "", |world| {
        let (fleet, lines) = sealed(world);
        everything_planted_is_shown(world, &fleet, &lines);
        a_partition_opens_like_the_lines(world, &lines[0]);
        what_was_moved_is_refused(world, &lines);
        another_kek_is_refused(world, &lines);
    });
}

#[test]
fn avro_opens_as_well() {
    in_a_world("open_avro", "event.clean_format = \"avro\"\n", |world| {
        let (fleet, lines) = sealed(world);
        everything_planted_is_shown(world, &fleet, &lines);
        a_partition_opens_like_the_lines(world, &lines[0]);
        audit::watch(world);
        let (code, found) = audit::verify(world, &[]);
        assert_eq!((code, audit::kinds(&found)), (Some(0), vec![]), "{found:#}");
        assert_eq!(audit::sum(&found, "raw_records"), 300);
    });
}

fn everything_planted_is_shown(world: &World, fleet: &Fleet, lines: &[Vec<u8>]) {
    assert_eq!(lines.len(), 300);
    let output = open(world, lines, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let opened = events(&output);
    assert_eq!(opened.len(), 300);
    let shown = String::from_utf8_lossy(&output.stdout);
    let planted = fleet.planted();
    let names = opened
        .iter()
        .filter_map(|event| event.pointer("/subject/name")?.as_str());
    assert!(
        names.clone().count() > 0
            && names
                .clone()
                .all(|name| planted.iter().any(|plant| plant == name))
    );
    assert!(planted.iter().any(|plant| shown.contains(plant)));
    let log = said(&output);
    assert!(
        planted.iter().all(|plant| !log.contains(plant)),
        "the log contains PHI"
    );
    assert_eq!(
        log.matches("was decrypted").count(),
        300,
        "every decryption is logged"
    );
}

fn a_partition_opens_like_the_lines(world: &World, line: &[u8]) {
    let expected = events(&open(world, &[line.to_vec()], &[]));
    let place = kcat::read_line(line).expect("a line");
    let (partition, offset) = (place.partition.to_string(), place.offset.to_string());
    let output = world.run(&["--json", "open", "--partition", &partition, "--offset", &offset]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(events(&output), expected);
    let output = world.run(&["open", "--partition", &partition, "--offset", "999999999"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
}

fn what_was_moved_is_refused(world: &World, lines: &[Vec<u8>]) {
    let parsed: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_slice(line).expect("JSON"))
        .collect();
    let event = |line: &Value| -> Value {
        serde_json::from_str(line["payload"].as_str().expect("JSON")).expect("JSON")
    };
    let sealed = |line: &&Value| event(line).pointer("/subject/name").is_some_and(Value::is_string);
    let one = parsed.iter().find(sealed).expect("an event with a name").clone();
    let own = event(&one);
    let subject = own["subject"]["id"].clone();
    let other = |line: &&Value| sealed(line) && event(line)["subject"]["id"] != subject;
    let other = parsed.iter().find(other).expect("an event of another subject");
    let name = &own["subject"]["name"];
    let moves = [
        (
            "another subject and event",
            moved(other.clone(), "/subject/name", name),
        ),
        (
            "another event",
            moved(one.clone(), "/event_id", &event(other)["event_id"]),
        ),
        (
            "another subject",
            moved(one.clone(), "/subject/id", &event(other)["subject"]["id"]),
        ),
        ("another topic", {
            let mut line = one.clone();
            line["topic"] = "biometrics.elsewhere".into();
            [line.to_string().as_bytes(), b"\n"].concat()
        }),
    ];
    for (what, line) in moves {
        let output = open(world, &[line], &[]);
        assert_eq!(output.status.code(), Some(1), "{what}: {}", said(&output));
        assert!(output.stdout.is_empty(), "{what} is shown");
        let log = said(&output);
        let place = format!("{}/{}", one["partition"], one["offset"]);
        assert!(
            log.contains("subject.name") && log.contains("refused"),
            "{what}: {log}"
        );
        assert!(
            log.contains(&place) || log.contains(&format!("{}/{}", other["partition"], other["offset"])),
            "{log}"
        );
    }
}

fn another_kek_is_refused(world: &World, lines: &[Vec<u8>]) {
    let file = world.directory.join("another.kek");
    std::fs::write(&file, [8; 32]).expect("written");
    let output = open(
        world,
        &lines[..1],
        &["--set", &format!("kek.file={}", file.display())],
    );
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        output.stdout.is_empty() && said(&output).contains("KEK"),
        "{}",
        said(&output)
    );
}
