//! Structured logs on standard error: text for a terminal, JSON for machines.
//!
//! No PHI, no identity and no payload is ever logged: log calls take positions, counts and closed names.

use std::any::Any;
use std::fmt;
use std::io::IsTerminal;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::util::SubscriberInitExt;

use pulsegate_settings::Check;

/// Kafka clients with the default context log every error that they also return, including the end of a partition. A
/// filter that names the target again overrides this.
const QUIET: &str = "rdkafka::client=off";

/// How logs are written.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The least severe level that is written, or a comma-separated filter such as `info,pulsegate::io=debug`.
    /// Default: `info`.
    pub level: String,
    /// The form of a line. Default: `auto`, which is `text` on a terminal and `json` otherwise.
    pub format: Format,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `text` on a terminal, `json` otherwise.
    #[default]
    Auto,
    /// A line of text for people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: Format::Auto,
        }
    }
}

impl Config {
    /// Reports an invalid filter.
    pub fn check(&self, check: &mut Check) {
        if self.filter().is_err() {
            check.problem("level", "must be a level (error, warn, info, debug, trace) or a filter such as info,pulsegate::io=debug");
        }
    }

    fn filter(&self) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
        EnvFilter::builder().parse(format!("{QUIET},{}", self.level))
    }
}

/// Starts logging for this process, including the `log` crate's records (librdkafka, sqlx) and panics; a second call
/// changes nothing.
pub fn start(config: &Config) {
    let terminal = std::io::stderr().is_terminal();
    if dispatch(config, terminal, std::io::stderr).try_init().is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let at = panic.location().map_or_else(String::new, ToString::to_string);
            let thread = std::thread::current();
            let thread = thread.name().unwrap_or_default();
            tracing::error!(
                at,
                thread,
                what = constant(panic.payload()),
                "a thread panicked; this is a defect, please report it"
            );
        }));
    }
}

/// The message of a panic if it is a string literal. Any other is formatted from values, which may be PHI.
fn constant(payload: &dyn Any) -> &'static str {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .unwrap_or("[redacted]")
}

fn dispatch<W>(config: &Config, terminal: bool, writer: W) -> tracing::Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let json = match config.format {
        Format::Auto => !terminal,
        Format::Text => false,
        Format::Json => true,
    };
    // An invalid filter was rejected with the configuration; this is for callers that skipped the check.
    let filter = config.filter().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(Utc)
        .with_writer(writer);
    if json {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_ansi(false)
            .finish()
            .into()
    } else {
        builder.with_ansi(terminal).finish().into()
    }
}

/// RFC 3339 in UTC, to the microsecond.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{:.6}", jiff::Timestamp::now())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .lock()
                .expect("no test panics while it logs")
                .extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, terminal: bool) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let config = Config {
            level: "info".to_owned(),
            format,
        };
        tracing::dispatcher::with_default(&dispatch(&config, terminal, move || writer.clone()), || {
            tracing::info!(lane = 3, "lane assigned");
            tracing::debug!("not at this level");
        });
        let bytes = sink.0.lock().expect("no test panics while it logs").clone();
        String::from_utf8(bytes).expect("logs are UTF-8")
    }

    #[test]
    fn json_without_a_terminal_has_time_level_message_and_fields_at_the_top() {
        let text = logged(Format::Auto, false);
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).expect("a JSON line");
        assert_eq!(line["lane"], 3);
        assert_eq!(line["message"], "lane assigned");
        assert_eq!(line["level"], "INFO");
        let time: jiff::Timestamp = line["timestamp"]
            .as_str()
            .expect("a time")
            .parse()
            .expect("RFC 3339");
        assert!(
            line["timestamp"].as_str().is_some_and(|text| text.ends_with('Z')),
            "{time} is not in UTC"
        );
    }

    #[test]
    fn escapes_only_on_a_terminal() {
        assert!(logged(Format::Auto, true).contains("\x1b["));
        assert!(!logged(Format::Text, false).contains('\x1b'));
        assert!(!logged(Format::Json, true).contains('\x1b'));
    }

    #[test]
    fn a_panic_message_is_logged_only_if_it_holds_no_value() {
        let name = "Ada";
        let told = |panic: fn(&str)| {
            let caught = std::panic::catch_unwind(|| panic(name)).expect_err("it panics");
            constant(caught.as_ref())
        };
        assert_eq!(told(|_| panic!("a lane is gone")), "a lane is gone");
        assert_eq!(told(|name| panic!("no key for {name}")), "[redacted]");
        assert_eq!(
            told(|name| {
                name.parse::<u8>().expect("a number");
            }),
            "[redacted]"
        );
    }
}
