//! The doors of the house open one way only. This test reads the sources and fails, naming file and line, when
//!
//! 1. a room names a room above it,
//! 2. files import each other in a circle,
//! 3. a pure crate reaches for the world: files, environment, network, clocks, randomness, or a runtime.
//!
//! `PULSEGATE_GRAPH=1 cargo test --test doors -- --nocapture` prints the graph: each file with the files that it imports.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use source::Named;

/// The crates, and their rooms from the ground up. A room may name itself, the rooms of the groups before its own, and no other.
const HOUSE: [(&str, &[&[&str]]); 6] = [
    ("crates/settings", &[]),
    (
        "crates/ledger",
        &[
            &["outcome", "record", "merkle"],
            &["note", "entry"],
            &["log"],
            &["verify"],
        ],
    ),
    ("crates/detect", &[]),
    ("crates/core", &[&["event"], &["crypto"], &["gate"]]),
    (
        ".",
        &[
            &["telemetry"],
            &["io"],
            &["config"],
            &["roles"],
            &["actions"],
            &["cli"],
        ],
    ),
    ("loadtest", &[]),
];

const PURE: [&str; 4] = ["crates/settings", "crates/ledger", "crates/detect", "crates/core"];

/// What a pure crate does not name: a path that contains one of these, in a row, is an offence.
const WORLD: [&[&str]; 15] = [
    &["std", "fs"],
    &["std", "env"],
    &["std", "net"],
    &["std", "process"],
    &["std", "thread"],
    &["Instant", "now"],
    &["SystemTime", "now"],
    &["Timestamp", "now"],
    &["Zoned", "now"],
    &["tokio"],
    &["sqlx"],
    &["rdkafka"],
    &["reqwest"],
    &["getrandom"],
    &["rand"],
];

/// One file of a crate: where it is, the module that it is, and the paths that it names outside of its tests.
struct File {
    path: PathBuf,
    module: Vec<String>,
    named: Vec<Named>,
}

fn files(krate: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(krate).join("src");
    let (mut files, mut test_modules, mut folders) = (Vec::new(), Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a readable directory").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let (code, tests) = source::code(&fs::read_to_string(&path).expect("UTF-8"));
                let module = source::module(path.strip_prefix(&root).expect("below the root"));
                test_modules.extend(
                    tests
                        .into_iter()
                        .map(|name| [module.clone(), vec![name]].concat()),
                );
                files.push(File {
                    path,
                    module,
                    named: source::paths(&code),
                });
            }
        }
    }
    files.retain(|file| !test_modules.iter().any(|tests| file.module.starts_with(tests)));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// Where a path leads, from the root of the crate; nothing when it leads to another crate or to a local name.
fn absolute(file: &File, files: &[File], segments: &[String]) -> Option<Vec<String>> {
    let rest = |from: usize| segments[from..].iter().cloned();
    match segments[0].as_str() {
        "crate" => Some(rest(1).collect()),
        "self" => Some(file.module.iter().cloned().chain(rest(1)).collect()),
        "super" => {
            let ups = segments.iter().take_while(|&segment| segment == "super").count();
            Some(
                file.module[..file.module.len().checked_sub(ups)?]
                    .iter()
                    .cloned()
                    .chain(rest(ups))
                    .collect(),
            )
        }
        child => {
            let module = [file.module.clone(), vec![child.to_owned()]].concat();
            files
                .iter()
                .any(|other| other.module == module)
                .then(|| file.module.iter().cloned().chain(rest(0)).collect())
        }
    }
}

/// The file that defines what a path leads to. A name that a file on the way has only from a `use` leads on to that one's target.
fn definition(files: &[File], target: &[String], ways: usize) -> Option<usize> {
    let holder = |module: &[String]| files.iter().position(|file| file.module == module);
    let (length, found) = (0..=target.len())
        .rev()
        .find_map(|length| Some((length, holder(&target[..length])?)))?;
    let Some(name) = target.get(length).filter(|_| ways > 0) else {
        return Some(found);
    };
    let file = &files[found];
    let bound = file.named.iter().find(|named| named.bound.as_ref() == Some(name));
    let further = bound.and_then(|named| absolute(file, files, &named.segments));
    Some(
        further
            .and_then(|further| definition(files, &further, ways - 1))
            .unwrap_or(found),
    )
}

/// The files that each file imports, by index, with the line of the first path that does.
fn graph(files: &[File]) -> Vec<BTreeMap<usize, usize>> {
    let edges = |(at, file): (usize, &File)| {
        let mut edges = BTreeMap::new();
        for named in file.named.iter().filter(|named| !named.is_sign) {
            let target =
                absolute(file, files, &named.segments).and_then(|target| definition(files, &target, 8));
            if let Some(other) = target.filter(|&other| other != at) {
                edges.entry(other).or_insert(named.line);
            }
        }
        edges
    };
    files.iter().enumerate().map(edges).collect()
}

/// Everything that can be reached from a file.
fn reach(graph: &[BTreeMap<usize, usize>], from: usize) -> BTreeSet<usize> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(at) = open.pop() {
        open.extend(graph[at].keys().filter(|&&next| reached.insert(next)));
    }
    reached
}

fn shown(file: &File) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    file.path
        .strip_prefix(root.join("."))
        .unwrap_or(&file.path)
        .display()
        .to_string()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut offences = Vec::new();
    for (krate, _) in HOUSE {
        let files = files(krate);
        let graph = graph(&files);
        let reached: Vec<_> = (0..files.len()).map(|at| reach(&graph, at)).collect();
        for (at, edges) in graph.iter().enumerate() {
            if std::env::var_os("PULSEGATE_GRAPH").is_some() {
                println!(
                    "{} -> {}",
                    shown(&files[at]),
                    edges
                        .keys()
                        .map(|&to| shown(&files[to]))
                        .collect::<Vec<_>>()
                        .join(" ")
                );
            }
            let circular = edges.iter().filter(|&(&to, _)| reached[to].contains(&at));
            offences.extend(circular.map(|(&to, line)| {
                format!(
                    "{}:{line} imports {}, which imports it",
                    shown(&files[at]),
                    shown(&files[to])
                )
            }));
        }
    }
    assert!(
        offences.is_empty(),
        "{} imports in circles:\n{}",
        offences.len(),
        offences.join("\n")
    );
}

#[test]
fn no_room_names_a_room_above_it() {
    let mut offences = Vec::new();
    for (krate, groups) in HOUSE {
        let floor = |room: &String| groups.iter().position(|group| group.contains(&room.as_str()));
        let files = files(krate);
        for file in &files {
            let Some(own) = file.module.first().and_then(floor) else {
                continue;
            };
            for named in &file.named {
                let target = absolute(file, &files, &named.segments).unwrap_or_default();
                let Some(room) = target.first().filter(|&room| *room != file.module[0]) else {
                    continue;
                };
                if floor(room).is_some_and(|other| other >= own) {
                    offences.push(format!("{}:{} names the room `{room}`", shown(file), named.line));
                }
            }
        }
    }
    assert!(
        offences.is_empty(),
        "{} doors open upwards:\n{}",
        offences.len(),
        offences.join("\n")
    );
}

#[test]
fn pure_crates_do_not_reach_for_the_world() {
    let mut offences = Vec::new();
    for krate in PURE {
        for file in files(krate) {
            let reaches = |named: &&Named| {
                WORLD.iter().any(|banned| {
                    named
                        .segments
                        .windows(banned.len())
                        .any(|run| run.iter().zip(*banned).all(|(a, b)| a == b))
                })
            };
            let named = file.named.iter().filter(reaches);
            offences.extend(named.map(|named| {
                format!(
                    "{}:{} names `{}`",
                    shown(&file),
                    named.line,
                    named.segments.join("::")
                )
            }));
        }
    }
    assert!(
        offences.is_empty(),
        "{} reaches for the world:\n{}",
        offences.len(),
        offences.join("\n")
    );
}
