//! The layers of settings: defaults < profile < file < environment < `--set`, and the problems of each.
//!
//! Figment merges the layers and tracks the origin of each value. Two things are added here: values that arrive as text
//! (environment, `--set`) are read as the type in the generated schema, so a password of digits stays a string; and an
//! invalid value is removed before the next attempt, so all problems are reported at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::error::{Actual, Kind};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde_json::Value as Json;

use super::Config;
use pulsegate_settings::{Invalid, LOCAL, Problem};

/// Configuration file that is read, if it exists, when none is named.
pub const FILE: &str = "pulsegate.toml";
/// Environment variable that names the profile when `--profile` is not given.
pub const PROFILE_VARIABLE: &str = "PULSEGATE_PROFILE";
/// Prefix of the environment variables that are settings …
pub const PREFIX: &str = "PULSEGATE_";
/// … except those of the development stack and of the tests, which only their own tools read.
const NOT_SETTINGS: [&str; 2] = ["PULSEGATE_STACK_", "PULSEGATE_TEST_"];
/// Largest configuration file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Presets of the profiles.
const PROFILES: [(&str, &str); 4] = [
    (LOCAL, include_str!("profiles/local.toml")),
    ("dev", include_str!("profiles/dev.toml")),
    ("staging", include_str!("profiles/staging.toml")),
    ("prod", include_str!("profiles/prod.toml")),
];

/// Where to look for settings; the process environment is an argument.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Value of `--config`; without it [`FILE`] is read if it exists.
    pub file: Option<PathBuf>,
    /// Value of `--profile`.
    pub profile: Option<String>,
    /// Values of `--set`, such as `a.b=c`, in order.
    pub set: Vec<String>,
    /// Environment variables, of which only those with [`PREFIX`] are read.
    pub environment: Vec<(String, String)>,
}

/// A configuration and the origins of its values.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The effective values.
    pub config: Config,
    origins: BTreeMap<String, String>,
}

impl Loaded {
    /// Origin of the value at the dotted `path`, such as `file pulsegate.toml` or `default`.
    #[must_use]
    pub fn origin(&self, path: &str) -> &str {
        origin_of(&self.origins, path).unwrap_or("default")
    }
}

/// Origin of the setting at `path`, of the list that contains it, or of the first setting in the table at `path`.
fn origin_of<'o>(origins: &'o BTreeMap<String, String>, path: &str) -> Option<&'o str> {
    let ancestors = std::iter::successors(Some(path), |path| path.rfind('.').map(|end| &path[..end]));
    ancestors
        .into_iter()
        .find_map(|path| origins.get(path))
        .map(String::as_str)
        .or_else(|| {
            let table = format!("{path}.");
            let (first, origin) = origins.range(table.clone()..).next()?;
            first.starts_with(&table).then_some(origin)
        })
}

/// Reads all layers and checks the result.
///
/// # Errors
///
/// All problems: invalid syntax of layers, unknown settings, wrong types, and invalid values.
pub fn load(inputs: &Inputs) -> Result<Loaded, Invalid> {
    let mut problems = Vec::new();
    let schema = Config::schema();
    let above = layers_above_profile(inputs, &schema, &mut problems);
    let mut figment = Figment::new();
    if let Some(profile) = profile_layer(inputs, &above, &mut problems) {
        figment = figment.merge(profile);
    }
    for layer in above {
        figment = figment.merge(layer);
    }
    let merged = figment
        .find_value("")
        .unwrap_or_else(|_| Value::from(Dict::new()));
    let mut origins = BTreeMap::new();
    collect_origins(&figment, &merged, String::new(), &mut origins);
    let config = extract(merged, &mut problems);
    for problem in config.problems() {
        // An invalid value that was removed has its default here, which must not be reported again.
        if !problems.iter().any(|known: &Problem| known.path == problem.path) {
            problems.push(problem);
        }
    }
    for problem in &mut problems {
        if problem.source.is_none() {
            problem.source = origin_of(&origins, &problem.path).map(str::to_owned);
        }
    }
    if problems.is_empty() {
        Ok(Loaded { config, origins })
    } else {
        Err(Invalid(problems))
    }
}

/// One source of settings, with the name that is shown to people.
struct Layer {
    name: String,
    data: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.data.clone())]))
    }
}

/// The file, the environment and `--set`, lowest first.
fn layers_above_profile(inputs: &Inputs, schema: &Json, problems: &mut Vec<Problem>) -> Vec<Layer> {
    let mut layers = Vec::new();
    let file = inputs
        .file
        .as_deref()
        .or_else(|| Some(Path::new(FILE)).filter(|path| path.exists()));
    if let Some(path) = file {
        match read_file(path) {
            Ok(data) => layers.push(Layer {
                name: format!("file {}", path.display()),
                data,
            }),
            Err(message) => problems.push(Problem {
                source: None,
                ..Problem::new("", message)
            }),
        }
    }
    for (name, value) in &inputs.environment {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if name == PROFILE_VARIABLE || NOT_SETTINGS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let segments: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
        // A variable's name can't have dots, and librdkafka's property names separate words by dots only.
        let data = text_setting(schema, &segments, value, |key| key.replace('_', "."));
        layers.push(Layer {
            name: format!("environment variable {name}"),
            data,
        });
    }
    for setting in &inputs.set {
        let Some((path, value)) = setting.split_once('=') else {
            // The text itself is not repeated: it may be part of a secret.
            problems.push(Problem::new(
                "",
                "--set needs PATH=VALUE, such as --set gate.workers=2",
            ));
            continue;
        };
        let segments: Vec<String> = path.trim().split('.').map(str::to_owned).collect();
        let data = text_setting(schema, &segments, value, str::to_owned);
        layers.push(Layer {
            name: format!("--set {}", path.trim()),
            data,
        });
    }
    layers
}

/// The preset of the chosen profile: `--profile`, else `PULSEGATE_PROFILE`, else the environment's own name.
fn profile_layer(inputs: &Inputs, above: &[Layer], problems: &mut Vec<Problem>) -> Option<Layer> {
    let variable = || {
        let found = inputs
            .environment
            .iter()
            .find(|(name, _)| name == PROFILE_VARIABLE);
        found.map(|(_, value)| value.clone())
    };
    let set = || {
        above
            .iter()
            .rev()
            .find_map(|layer| layer.data.get("environment")?.as_str().map(str::to_owned))
    };
    let (chosen, path) = match (inputs.profile.clone().or_else(variable), set()) {
        (Some(name), _) => (name, ""),
        (None, Some(name)) => (name, "environment"),
        (None, None) => (LOCAL.to_owned(), ""),
    };
    let Some((name, text)) = PROFILES.iter().find(|(name, _)| *name == chosen) else {
        let names = PROFILES.map(|(name, _)| name).join(", ");
        problems.push(Problem::new(
            path,
            format!("unknown profile: choose one of {names} with --profile"),
        ));
        return None;
    };
    let mut data: Dict = toml::from_str(text).unwrap_or_default();
    data.entry("environment".to_owned())
        .or_insert_with(|| Value::from(*name));
    Some(Layer {
        name: format!("profile {name}"),
        data,
    })
}

/// Reads a TOML file. Errors name the place, never the text: the line may hold a secret.
fn read_file(path: &Path) -> Result<Dict, String> {
    let shown = path.display();
    let fault = |error| format!("failed to read {shown}: {error}");
    if std::fs::metadata(path).map_err(fault)?.len() > FILE_BYTES_MAX {
        return Err(format!(
            "{shown} is larger than {FILE_BYTES_MAX} bytes: not a configuration file"
        ));
    }
    let text = std::fs::read_to_string(path).map_err(fault)?;
    toml::from_str(&text).map_err(|error| {
        let line = error
            .span()
            .map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        format!(
            "{shown} is not valid TOML at line {line}: {}",
            error.message().lines().next().unwrap_or_default()
        )
    })
}

/// Builds the nested setting for a path and its text.
fn text_setting(
    schema: &Json,
    segments: &[String],
    text: &str,
    property_name: impl Fn(&str) -> String,
) -> Dict {
    let mut place = Some(schema);
    let mut keys = Vec::new();
    let mut rest = segments;
    while let Some((key, tail)) = rest.split_first() {
        let inner = place.map(resolve);
        let properties = inner.and_then(|inner| inner.get("properties")?.get(key));
        let values = inner
            .and_then(|inner| inner.get("additionalProperties"))
            .filter(|values| values.is_object());
        if properties.is_none() && values.is_some_and(is_text) {
            // A map of strings has no nested settings: the rest of the path is one key, including its dots.
            keys.push(property_name(&rest.join(".")));
            place = values;
            break;
        }
        keys.push(key.clone());
        place = properties.or(values);
        rest = tail;
    }
    let mut value = match place {
        Some(place) if !is_text(place) => parse(text),
        _ => Value::from(text),
    };
    while keys.len() > 1 {
        value = Value::from(Dict::from([(keys.pop().unwrap_or_default(), value)]));
    }
    Dict::from([(keys.pop().unwrap_or_default(), value)])
}

/// Reads text as a TOML value. Other text stays a string, and the type check reports what was expected.
fn parse(text: &str) -> Value {
    toml::from_str::<Dict>(&format!("value = {text}"))
        .ok()
        .filter(|parsed| parsed.len() == 1)
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| Value::from(text))
}

/// Skips `null` alternatives of a schema. It has no references to follow.
fn resolve(schema: &Json) -> &Json {
    let branches = schema.get("anyOf").and_then(Json::as_array);
    let some = branches.and_then(|all| all.iter().find(|branch| branch["type"] != "null"));
    some.unwrap_or(schema)
}

/// Whether the setting is a string: plain, optional, or one of a few words.
fn is_text(schema: &Json) -> bool {
    let schema = resolve(schema);
    match &schema["type"] {
        Json::Array(kinds) => kinds.iter().any(|kind| kind == "string"),
        Json::Null => match schema["oneOf"].as_array() {
            Some(words) => words.iter().all(is_text),
            None => schema["const"].is_string(),
        },
        kind => kind == "string",
    }
}

/// Records the layer of every leaf.
fn collect_origins(figment: &Figment, value: &Value, path: String, origins: &mut BTreeMap<String, String>) {
    if let Value::Dict(_, entries) = value {
        for (key, inner) in entries {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            collect_origins(figment, inner, path, origins);
        }
    } else if let Some(metadata) = figment.get_metadata(value.tag()) {
        origins.insert(path, metadata.name.to_string());
    }
}

/// Turns the merged values into a configuration. Each invalid value is reported and removed, so that it has its
/// default, until the rest is valid.
fn extract(merged: Value, problems: &mut Vec<Problem>) -> Config {
    let mut merged = merged;
    loop {
        let error = match merged.deserialize::<Config>() {
            Ok(config) => return config,
            Err(error) => error,
        };
        problems.push(Problem::new(error.path.join("."), describe(&error.kind)));
        if !remove(&mut merged, &error.path) {
            return Config::default();
        }
    }
}

/// Removes the value at `path`, or the innermost list or table that holds it.
fn remove(value: &mut Value, path: &[String]) -> bool {
    let Value::Dict(_, entries) = value else {
        return false;
    };
    let Some((key, rest)) = path.split_first() else {
        return false;
    };
    let Some(inner) = entries.get_mut(key) else {
        return false;
    };
    remove(inner, rest) || entries.remove(key).is_some()
}

/// Describes what is invalid, without the value: it may be a secret in the wrong place.
fn describe(kind: &Kind) -> String {
    match kind {
        Kind::UnknownField(_, []) => "is not a setting: nothing can be set here".to_owned(),
        Kind::UnknownField(_, known) => {
            format!("is not a setting: known here are {}", known.join(", "))
        }
        Kind::UnknownVariant(_, known) => format!("must be one of {}", known.join(", ")),
        Kind::InvalidType(actual, expected) => {
            format!("must be {}, but is {}", plain(expected), noun(actual))
        }
        Kind::InvalidValue(_, expected) => format!("is out of range: must be {}", plain(expected)),
        Kind::InvalidLength(length, expected) => format!("has {length} items: must be {expected}"),
        Kind::MissingField(name) => format!("is missing {name}"),
        Kind::Message(message) => message.clone(),
        _ => "is invalid".to_owned(),
    }
}

/// Describes a Rust type in plain words.
fn plain(expected: &str) -> String {
    match expected {
        "u8" => format!("an integer between 0 and {}", u8::MAX),
        "u16" => format!("an integer between 0 and {}", u16::MAX),
        "u32" => format!("an integer between 0 and {}", u32::MAX),
        "u64" | "usize" => "an integer of at least 0".to_owned(),
        "a nonzero u8" | "a nonzero u16" | "a nonzero u32" | "a nonzero u64" => {
            "an integer of at least 1".to_owned()
        }
        "i8" | "i16" | "i32" | "i64" | "isize" => "an integer".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "string" => "text".to_owned(),
        "a map" => "a table".to_owned(),
        "a sequence" => "a list".to_owned(),
        other => other
            .strip_prefix("struct ")
            .map_or_else(|| other.to_owned(), |_| "a table".to_owned()),
    }
}

/// Describes the type of a value that was found in place of another.
fn noun(actual: &Actual) -> &'static str {
    match actual {
        Actual::Bool(_) => "true or false",
        Actual::Unsigned(_) | Actual::Signed(_) => "an integer",
        Actual::Float(_) => "a decimal number",
        Actual::Char(_) | Actual::Str(_) => "text",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "something else",
    }
}
