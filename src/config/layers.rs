//! Where settings come from: defaults < profile < file < environment < `--set`, and what each layer got wrong.
//!
//! Merging and the origin of each value are figment's. Two things are ours: values that arrive as text (environment,
//! `--set`) are read as the type that the generated schema asks for, so a password of digits stays a string; and after a
//! value that does not fit, the next attempt runs without it, so every problem is found in one go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::error::{Actual, Kind};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde_json::Value as Json;

use super::Config;
use pulsegate_settings::{Invalid, LOCAL, Problem};

/// The file that is read when none is named.
pub const FILE: &str = "pulsegate.toml";
/// Names the profile where `--profile` does not.
pub const PROFILE_VARIABLE: &str = "PULSEGATE_PROFILE";
/// Environment variables that begin with this are settings …
pub const PREFIX: &str = "PULSEGATE_";
/// … except those of the development stack, which tell addresses to its own tools.
const STACK_PREFIX: &str = "PULSEGATE_STACK_";
/// A configuration file beyond this size is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a profile presets.
const PROFILES: [(&str, &str); 4] = [
    (LOCAL, include_str!("profiles/local.toml")),
    ("dev", include_str!("profiles/dev.toml")),
    ("staging", include_str!("profiles/staging.toml")),
    ("prod", include_str!("profiles/prod.toml")),
];

/// Where to look for settings; the process environment is an argument.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// `--config`; without it [`FILE`] is read if it is there.
    pub file: Option<PathBuf>,
    /// `--profile`.
    pub profile: Option<String>,
    /// `--set a.b=c`, in order.
    pub set: Vec<String>,
    /// The environment variables, of which only ours are looked at.
    pub environment: Vec<(String, String)>,
}

/// A configuration and where its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The effective values.
    pub config: Config,
    origins: BTreeMap<String, String>,
}

impl Loaded {
    /// Where the value at the dotted `path` came from.
    #[must_use]
    pub fn origin(&self, path: &str) -> &str {
        origin_of(&self.origins, path).unwrap_or("default")
    }
}

/// The origin of the setting at `path`, of the list that it stands in, or of the first setting of the table that it is.
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
/// Every problem that was found: in the layers' syntax, the names and types of settings, and the values' sense.
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
        // A value that was already found wrong stands at its default here: no second complaint about it.
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

/// One source of settings, with the name that people know it by.
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
        if name == PROFILE_VARIABLE || name.starts_with(STACK_PREFIX) {
            continue;
        }
        let segments: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
        // A variable's name has no dots, and librdkafka's property names have nothing else between their words.
        let data = text_setting(schema, &segments, value, |key| key.replace('_', "."));
        layers.push(Layer {
            name: format!("environment variable {name}"),
            data,
        });
    }
    for setting in &inputs.set {
        let Some((path, value)) = setting.split_once('=') else {
            // The text itself is not repeated: it may be half of a secret.
            problems.push(Problem::new(
                "",
                "--set wants PATH=VALUE, such as --set gate.workers=2",
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
            format!("no profile has this name: choose one of {names} with --profile"),
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
    let fault = |error| format!("can't read {shown}: {error}");
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
            "{shown} is no TOML at line {line}: {}",
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
            // A map of texts is as deep as it gets: what is left of the path is one key, dots and all.
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

/// Text as a TOML value; what is none stays text, and the type check says what was expected.
fn parse(text: &str) -> Value {
    toml::from_str::<Dict>(&format!("value = {text}"))
        .ok()
        .filter(|parsed| parsed.len() == 1)
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| Value::from(text))
}

/// Steps over `null` alternatives, to the schema that says something. References need no following: there are none.
fn resolve(schema: &Json) -> &Json {
    let branches = schema.get("anyOf").and_then(Json::as_array);
    let some = branches.and_then(|all| all.iter().find(|branch| branch["type"] != "null"));
    some.unwrap_or(schema)
}

/// The setting is a string: plain, optional, or one of a few words.
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

/// Notes for every leaf which layer it came from.
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

/// Turns the merged values into a configuration. Each value that does not fit is noted, taken out and left at its
/// default, until what remains fits.
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

/// Takes out the value at `path`, or the innermost list or table that holds it.
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

/// Says what does not fit, without the value: it may be a secret in the wrong place.
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
        Kind::MissingField(name) => format!("lacks {name}"),
        Kind::Message(message) => message.clone(),
        _ => "does not fit".to_owned(),
    }
}

/// What a type of ours is called by people who don't read Rust.
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

/// What was found where something else was expected.
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
