//! The schema registry: against the real one of the stack, and against servers with every failure that is not the
//! message's fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pulsegate::io::registry::{Config, Registry, RegistryFault};
use pulsegate_core::event::{self, Catalog, Located, Source, Verdict};
use pulsegate_settings::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const DEFAULT: &str = include_str!("../../schemas/biometric_event.avsc");

fn catalog() -> Catalog {
    let source = Source {
        name: "biometric_event".to_owned(),
        text: DEFAULT.to_owned(),
    };
    Catalog::compile(&[source], &event::Config::default()).expect("the default event compiles")
}

fn registry(url: &str) -> Registry {
    registry_within(1_000, url)
}

fn registry_within(request_time_max_ms: u64, url: &str) -> Registry {
    let config = Config {
        url: Secret::from(url),
        request_time_max_ms,
        denied_s: 1,
        ids_max: 4,
    };
    Registry::new(&config).expect("a URL").expect("a registry")
}

fn stack() -> Registry {
    // Generous: a loaded machine must not fail a test.
    registry_within(10_000, &pulsegate_testkit::stack::registry_url())
}

/// A subject of this run only: a stack's registry outlives the run.
fn subject(name: &str) -> String {
    format!("test-{name}-{}", uuid::Uuid::new_v4())
}

#[tokio::test]
async fn an_id_of_the_real_registry_leads_to_the_local_plan() {
    let (registry, catalog) = (stack(), catalog());
    let plan = &catalog.plans()[0];
    let raw = subject("raw");
    let id = registry
        .register(&raw, &plan.schema().to_string())
        .await
        .expect("registered");
    assert_eq!(
        registry
            .register(&raw, &plan.schema().to_string())
            .await
            .expect("registered again"),
        id
    );
    let clean = registry
        .register(&subject("clean"), &plan.clean_schema().to_string())
        .await
        .expect("registered");
    assert_ne!(id, clean);

    let value = [&[0], &id.to_be_bytes()[..], b"datum"].concat();
    assert!(matches!(catalog.locate(&value, &registry.ids()), Located::NeedsSchema(needed) if needed == id));
    registry
        .resolve(id, &catalog)
        .await
        .expect("the registry answers");
    assert!(matches!(
        catalog.locate(&value, &registry.ids()),
        Located::Plan { datum_start: 5, .. }
    ));

    // The clean schema is not a raw one: PHI framed with it must not pass as sealed.
    registry
        .resolve(clean, &catalog)
        .await
        .expect("the registry answers");
    assert_eq!(registry.ids().get(clean), Some(Verdict::Denied));
    let text = registry
        .schema(clean)
        .await
        .expect("the registry answers")
        .expect("the registry has the schema");
    assert_eq!(catalog.judge_clean(&text), Verdict::Plan(0));
}

#[tokio::test]
async fn a_schema_registered_without_tags_reads_as_the_local_one() {
    let (registry, catalog) = (stack(), catalog());
    let untagged = DEFAULT.replace(r#""confluent:tags": ["PHI"]"#, r#""doc": "nothing to see""#);
    let untagged: serde_json::Value =
        serde_json::from_str(&untagged.replace("pulsegate:protect", "x")).expect("is JSON");
    let id = registry
        .register(&subject("untagged"), &untagged.to_string())
        .await
        .expect("registered");
    registry
        .resolve(id, &catalog)
        .await
        .expect("the registry answers");
    assert_eq!(registry.ids().get(id), Some(Verdict::Plan(0)));
    assert!(!catalog.plans()[0].protected().is_empty());
}

#[tokio::test]
async fn an_id_unknown_to_the_real_registry_is_denied_for_a_while() {
    let (registry, catalog) = (stack(), catalog());
    let id = 2_000_000_000;
    let asked_at = Instant::now();
    registry
        .resolve(id, &catalog)
        .await
        .expect("the registry answers");
    assert_eq!(registry.ids().get(id), Some(Verdict::Denied));
    assert!(matches!(
        catalog.locate(&[0, 0x77, 0x35, 0x94, 0], &registry.ids()),
        Located::UnknownSchema
    ));
    registry.refresh().await;
    assert_eq!(
        registry.ids().get(id),
        Some(Verdict::Denied),
        "not asked again before the denial expires"
    );
    let limit = Instant::now() + Duration::from_secs(10);
    while registry.ids().get(id).is_some() {
        assert!(Instant::now() < limit, "the denial does not expire");
        registry.refresh().await;
    }
    assert!(
        asked_at.elapsed() >= Duration::from_secs(1),
        "asked again before the denial expired"
    );
}

#[tokio::test]
async fn another_schema_of_the_real_registry_is_denied() {
    let (registry, catalog) = (stack(), catalog());
    let other = DEFAULT.replace(r#""name": "note""#, r#""name": "remark""#);
    let id = registry
        .register(&subject("other"), &other)
        .await
        .expect("registered");
    registry
        .resolve(id, &catalog)
        .await
        .expect("the registry answers");
    assert_eq!(registry.ids().get(id), Some(Verdict::Denied));
}

/// A server that gives the same answer to every request and counts requests. With an empty answer it closes the
/// connection.
async fn server(answer: String) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/api", listener.local_addr().expect("an address"));
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                if answer.is_empty() {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (url, asked)
}

fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_fault_decides_nothing() {
    let catalog = catalog();
    for answer in [
        http(
            "500 Internal Server Error",
            r#"{"error_code":50001,"message":"no database"}"#,
        ),
        http("401 Unauthorized", r#"{"error_code":40101}"#),
        http("404 Not Found", "<html>no such page</html>"),
        http(
            "404 Not Found",
            r#"{"error_code":404,"message":"HTTP 404 Not Found"}"#,
        ),
        http("200 OK", "not JSON"),
        http("200 OK", &format!(r#"{{"schema":"{}"}}"#, "x".repeat(5 << 20))),
        "nonsense\r\n\r\n".to_owned(),
        String::new(),
    ] {
        let (url, _) = server(answer.clone()).await;
        let registry = registry(&url);
        let shown = &answer[..answer.len().min(60)];
        registry.resolve(7, &catalog).await.expect_err(shown);
        assert_eq!(registry.ids().get(7), None, "{shown}");
    }
    // A port without a listener.
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port")
        .local_addr()
        .expect("an address");
    let fault = registry(&format!("http://{gone}"))
        .resolve(7, &catalog)
        .await
        .expect_err("the connection is refused");
    assert!(matches!(fault, RegistryFault::Unreachable(_)), "{fault}");
}

#[tokio::test]
async fn only_a_plain_avro_schema_is_taken() {
    let catalog = catalog();
    let schema = serde_json::json!({ "schema": DEFAULT });
    let mut json_schema = schema.clone();
    json_schema["schemaType"] = "JSON".into();
    let mut with_references = schema.clone();
    with_references["references"] = serde_json::json!([{ "name": "a", "subject": "b", "version": 1 }]);
    let gone = serde_json::json!({ "error_code": 40403, "message": "Schema not found" });
    for (status, body, verdict) in [
        ("200 OK", schema, Verdict::Plan(0)),
        ("200 OK", json_schema, Verdict::Denied),
        ("200 OK", with_references, Verdict::Denied),
        ("200 OK", serde_json::json!({ "schema": "{" }), Verdict::Denied),
        ("404 Not Found", gone, Verdict::Denied),
    ] {
        let (url, _) = server(http(status, &body.to_string())).await;
        let registry = registry(&url);
        registry.resolve(7, &catalog).await.expect("an answer");
        assert_eq!(
            registry.ids().get(7),
            Some(verdict),
            "{}",
            &body.to_string()[..40]
        );
    }
}

#[tokio::test]
async fn concurrent_lookups_of_one_id_share_a_request() {
    let (catalog, gone) = (catalog(), http("404 Not Found", r#"{"error_code":40403}"#));
    let (url, asked) = server(gone).await;
    let asking = registry(&url);
    let answers = (0..50).map(|_| asking.resolve(7, &catalog));
    for answer in join_all(answers).await {
        answer.expect("an answer");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    // Also if the answer is a fault: lookups that waited for it do not ask again one after another.
    let (url, asked) = server(http("503 Service Unavailable", "")).await;
    let failing = registry(&url);
    let answers = (0..50).map(|id| failing.resolve(id, &catalog));
    for answer in join_all(answers).await {
        answer.expect_err("a fault");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    failing.resolve(7, &catalog).await.expect_err("a fault");
    assert_eq!(asked.load(Ordering::SeqCst), 2, "a later lookup asks again");
}

#[tokio::test]
async fn made_up_ids_do_not_fill_the_memory() {
    let catalog = catalog();
    let (url, _) = server(http("404 Not Found", r#"{"error_code":40403}"#)).await;
    let registry = registry(&url);
    for id in 0..50 {
        registry.resolve(id, &catalog).await.expect("an answer");
        assert!(registry.ids().len() <= 4);
        assert_eq!(registry.ids().get(id), Some(Verdict::Denied));
    }
}
