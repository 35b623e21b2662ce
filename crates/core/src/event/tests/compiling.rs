//! Which schemas compile, and the errors of those that do not.

use super::*;

/// A minimal schema with one more field.
fn schema(field: &str) -> String {
    format!(
        r#"{{"type":"record","name":"E","fields":[
            {{"name":"id","type":{{"type":"string","logicalType":"uuid"}},"pulsegate:role":"event-id"}},
            {{"name":"device","type":"string","pulsegate:role":"device","confluent:tags":["PHI"],"pulsegate:protect":"token"}},
            {{"name":"subject","type":"string","pulsegate:role":"subject","confluent:tags":["PHI"],"pulsegate:protect":"token"}}
            {}{field}]}}"#,
        if field.is_empty() { "" } else { "," }
    )
}

fn problem(text: &str) -> String {
    let source = Source {
        name: "e".to_owned(),
        text: text.to_owned(),
    };
    let config = Config {
        default_event: "e".to_owned(),
        ..Config::default()
    };
    Catalog::compile(&[source], &config).map_or_else(|error| error.to_string(), |_| String::new())
}

#[test]
fn errors_are_named_with_their_place() {
    for (field, expected) in [
        ("", ""),
        (r#"{"name":"x","type":"string"}"#, ""),
        (
            r#"{"name":"x","type":"string","confluent:tags":["PII"]}"#,
            "`x`: `confluent:tags` must be a list",
        ),
        (
            r#"{"name":"x","type":"string","confluent:tags":"PHI"}"#,
            "`x`: `confluent:tags` must be a list",
        ),
        (
            r#"{"name":"x","type":"string","pulsegate:protect":"token"}"#,
            "`x`: `pulsegate:protect` without",
        ),
        (
            r#"{"name":"x","type":"string","confluent:tags":["PHI"],"pulsegate:protect":"hash"}"#,
            "`x`: `pulsegate:protect` must be",
        ),
        (
            r#"{"name":"x","type":"long","confluent:tags":["PHI"],"pulsegate:protect":"token"}"#,
            "`x`: `token` needs a string",
        ),
        (
            r#"{"name":"x","type":"string","confluent:tags":["PHI"],"pulsegate:protect":"year"}"#,
            "`x`: `year` needs a date",
        ),
        (
            r#"{"name":"x","type":"string","default":"a","confluent:tags":["PHI"]}"#,
            "`x`: a protected field must not have a default",
        ),
        (
            r#"{"name":"x","type":"string","pulsegate:rol":"unit"}"#,
            "unknown attribute `pulsegate:rol`",
        ),
        (
            r#"{"name":"x","type":"string","pulsegate:role":"weight"}"#,
            "`x`: `pulsegate:role` must be one of",
        ),
        (
            r#"{"name":"x","type":"string","pulsegate:role":"subject"}"#,
            "`x`: the role `subject` is assigned twice",
        ),
        (
            r#"{"name":"x","type":"string","pulsegate:role":"value"}"#,
            "`x`: the role `value` needs a number",
        ),
        (
            r#"{"name":"x","type":{"type":"string","confluent:tags":["PHI"]}}"#,
            "`confluent:tags` is set on a type",
        ),
        (
            r#"{"name":"x","type":{"type":"array","items":"string","confluent:tags":["PHI"]}}"#,
            "`confluent:tags` is set on a type",
        ),
        (r#"{"name":"x","type":"bytes"}"#, "`x`: `Bytes` is not supported"),
        (
            r#"{"name":"x","type":["null","string","long"]}"#,
            "`x`: a union must be of `null` and one other",
        ),
        (
            r#"{"name":"x","type":["null","E"]}"#,
            "`x`: a type must not contain itself",
        ),
        (
            r#"{"name":"x","type":{"type":"record","name":"R","fields":[]}}"#,
            "`x`: a record must have at least one field",
        ),
        (
            r#"{"name":"x","type":{"type":"enum","name":"N","symbols":["A"]}},{"name":"y","type":"N"}"#,
            "",
        ),
        (
            r#"{"name":"x","type":{"type":"enum","name":"N","symbols":["A"]}},{"name":"y","type":"N","confluent:tags":["PHI"]}"#,
            "`N`: a named type that is used more than once",
        ),
        (
            r#"{"name":"x","confluent:tags":["PHI"],"type":{"type":"record","name":"R","fields":[{"name":"a","type":"long"}]}},
               {"name":"y","type":"R"}"#,
            "`R`: a named type that is used more than once",
        ),
    ] {
        let problem = problem(&schema(field));
        assert!(
            problem.contains(expected) && problem.is_empty() == expected.is_empty(),
            "{field}: {problem}"
        );
    }
}

#[test]
fn an_event_needs_an_id_a_device_and_a_subject() {
    let without =
        |role: &str| problem(&schema("").replace(&format!(r#""pulsegate:role":"{role}""#), r#""doc":"""#));
    assert!(without("event-id").contains("no field has the role `event-id`"));
    assert!(without("device").contains("no field has the role `device`"));
    assert!(without("subject").contains("no field has the role `subject`"));
    let unprotected = schema("").replace(r#","confluent:tags":["PHI"],"pulsegate:protect":"token""#, "");
    assert!(problem(&unprotected).contains("the role `device` needs a required string"));
    let dropped = schema("").replace(r#""pulsegate:protect":"token""#, r#""pulsegate:protect":"drop""#);
    assert!(problem(&dropped).contains("the role `device` needs"));
    assert!(problem("{").contains("not JSON"));
    assert!(problem(r#"{"type":"record"}"#).contains("not an Avro schema"));
    assert!(problem(r#""string""#).contains("must be a record"));
}

#[test]
fn two_schemas_with_one_canonical_form_are_refused() {
    let source = |name: &str| Source {
        name: name.to_owned(),
        text: schema(""),
    };
    let config = Config {
        default_event: "a".to_owned(),
        ..Config::default()
    };
    let error = Catalog::compile(&[source("a"), source("b")], &config).expect_err("twins");
    assert!(error.to_string().contains("`a` and `b`"));
    let error = Catalog::compile(&[source("b")], &config).expect_err("no default");
    assert!(error.to_string().contains("the event types are: b"));
}

#[test]
fn the_clean_schema_follows_from_the_plan() {
    let catalog = default_plan();
    let clean = catalog.plans()[0].clean_schema();
    assert_eq!(clean["name"], "CleanBiometricEvent");
    let subject = &clean["fields"][2]["type"]["fields"];
    assert_eq!(subject[0]["type"], "string");
    assert_eq!(subject[0]["pulsegate:sealed"], "token");
    assert_eq!(subject[1]["type"], json!(["null", "bytes"]));
    assert_eq!(subject[1]["default"], Value::Null);
    assert_eq!(subject[3]["type"], json!(["null", "string"]));
    assert_eq!(clean["fields"][6]["type"][1]["fields"][0]["type"], "bytes");
    assert!(!clean.to_string().contains("confluent:tags"));
    assert_eq!(clean["fields"][7], catalog.plans()[0].schema()["fields"][7]);
}

#[test]
fn protected_leaves_are_listed() {
    let catalog = default_plan();
    let protected: Vec<_> = catalog.plans()[0].protected();
    assert_eq!(protected[0], ("device_id", Protect::Token));
    assert!(protected.contains(&("location.longitude", Protect::Encrypt)));
    assert_eq!(catalog.plans()[0].role(Role::Value), Some("readings[].value"));
}
