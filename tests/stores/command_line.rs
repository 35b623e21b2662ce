//! `pulsegate config` from the command line: output, exit codes, and no secret in either.

use assert_cmd::Command;

const PLANTED: &str = "hunter2-PLANTED";

/// The binary in an empty directory, without Pulsegate's variables in its environment.
fn pulsegate(directory: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pulsegate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PULSEGATE_") {
            command.env_remove(name);
        }
    }
    command.current_dir(directory).args(arguments);
    command
}

struct Answer {
    code: Option<i32>,
    out: String,
    err: String,
}

fn answer(command: &mut Command) -> Answer {
    let output = command.output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("answers are UTF-8");
    Answer {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn show_names_every_value_with_its_origin_and_hides_secrets() {
    let directory = directory();
    std::fs::write(directory.path().join("pulsegate.toml"), "[gate]\nworkers = 2\n").expect("writable");
    let shown = answer(
        pulsegate(directory.path(), &["config", "show", "--set", "gate.group=mine"])
            .env("PULSEGATE_KAFKA__SECURITY__SASL_PASSWORD", PLANTED),
    );
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    let line = |name: &str| {
        shown
            .out
            .lines()
            .find(|line| line.trim_start().starts_with(name))
            .unwrap_or_default()
    };
    assert!(
        line("gate.workers").contains("file pulsegate.toml"),
        "{}",
        shown.out
    );
    assert!(line("gate.group").contains("--set gate.group"), "{}", shown.out);
    assert!(
        line("gate.batch.records_max").contains("default"),
        "{}",
        shown.out
    );
    assert!(
        line("kafka.security.sasl_password").contains("[redacted]"),
        "{}",
        shown.out
    );
    assert!(!shown.out.contains(PLANTED) && !shown.err.contains(PLANTED));
    assert!(
        !shown.out.contains('\u{1b}'),
        "escape sequences without a terminal"
    );
}

#[test]
fn show_prints_json_on_request() {
    let directory = directory();
    let shown = answer(&mut pulsegate(directory.path(), &["--json", "config", "show"]));
    let settings: serde_json::Value = serde_json::from_str(&shown.out).expect("JSON");
    assert_eq!(
        settings["gate.workers"],
        serde_json::json!({ "value": 1, "source": "default" })
    );
}

#[test]
fn check_is_0_when_good_and_1_when_something_is_wrong() {
    let directory = directory();
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let good = answer(pulsegate(directory.path(), &["config", "check"]).env("PHI_MASTER_KEY", key));
    assert_eq!(
        (good.code, good.out.as_str()),
        (Some(0), "The configuration is good.\n")
    );
    let keyless = answer(pulsegate(directory.path(), &["config", "check"]).env_remove("PHI_MASTER_KEY"));
    assert_eq!(keyless.code, Some(1));
    assert!(
        keyless.out.starts_with("kek: PHI_MASTER_KEY is not set"),
        "{}",
        keyless.out
    );
    let arguments = [
        "config",
        "check",
        "--json",
        "--set",
        "gate.workers=0",
        "--set",
        "no.such=1",
    ];
    let wrong = answer(&mut pulsegate(directory.path(), &arguments));
    assert_eq!(wrong.code, Some(1));
    let found: serde_json::Value = serde_json::from_str(&wrong.out).expect("JSON");
    let paths: Vec<_> = found["problems"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["path"])
        .collect();
    assert_eq!(paths, ["no", "gate.workers"]);
}

#[test]
fn other_commands_refuse_a_bad_configuration_with_2() {
    let directory = directory();
    for arguments in [
        &["config", "show", "--set", "gate.workers=0"][..],
        &["gate", "--set", "gate.workers=0"],
        &["--config", "nowhere.toml", "gate"],
        &["--profile", "nowhere", "gate"],
        &["no-such-command"],
        &["config"],
        &["--set", "gate.workers"],
    ] {
        let refused = answer(&mut pulsegate(directory.path(), arguments));
        assert_eq!(refused.code, Some(2), "{arguments:?}: {}", refused.err);
        assert_eq!(refused.out, "", "{arguments:?}");
        assert!(!refused.err.is_empty(), "{arguments:?}");
    }
    let arguments = ["--json", "gate", "--set", "gate.workers=0"];
    let refused = answer(&mut pulsegate(directory.path(), &arguments));
    let failure: serde_json::Value = serde_json::from_str(&refused.err).expect("JSON on standard error");
    assert_eq!(failure["failure"], "usage");
}

#[test]
fn a_setting_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let directory = directory();
    let broken = std::ffi::OsStr::from_bytes(b"a\xff");
    let refused = answer(
        pulsegate(directory.path(), &["config", "show"])
            .env("PULSEGATE_GATE__GROUP", broken)
            .env("OTHER", broken),
    );
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.err.contains("PULSEGATE_GATE__GROUP is not UTF-8"),
        "{}",
        refused.err
    );
}

#[test]
fn schema_accepts_what_an_editor_would_write() {
    let directory = directory();
    let schema = answer(&mut pulsegate(directory.path(), &["config", "schema"]));
    assert_eq!(schema.code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&schema.out).expect("JSON");
    assert_eq!(
        schema["properties"]["gate"]["properties"]["workers"]["type"],
        "integer"
    );
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn a_pipe_closed_early_is_not_an_error() {
    let directory = directory();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_pulsegate"))
        .args(["config", "schema"])
        .current_dir(directory.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}
