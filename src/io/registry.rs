//! Schema ids, resolved by a Confluent-compatible registry.
//!
//! Verdicts on ids are kept in one immutable snapshot that workers read without a lock. A known id stays known, since
//! registries never reuse one; a denied id is requested again after `registry.denied_s`. While the registry does not
//! answer, no id is denied: the lane waits.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use reqwest::{Client, Response, StatusCode, Url};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;
use tokio::sync::Mutex;

use pulsegate_core::event::{Catalog, Ids, Plan, Verdict};
use pulsegate_settings::{Check, Secret};

/// Largest response that is read, in bytes: a schema of the size that a gate compiles, quoted.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Media type of the API.
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Where the schema registry is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Base URL of a Confluent-compatible API, such as `https://registry:8081`. Default: none; Avro values with a
    /// registry's id are then `unknown_schema`.
    ///
    /// It may hold `user:password@`, so it is never shown.
    pub url: Secret,
    /// How long one request may take, in milliseconds. Default: 2,000.
    pub request_time_max_ms: u64,
    /// How long an id stays denied before it is requested again, in seconds. Default: 30.
    pub denied_s: u64,
    /// Ids that are kept in memory. Default: 10,000.
    pub ids_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            request_time_max_ms: 2_000,
            denied_s: 30,
            ids_max: 10_000,
        }
    }
}

impl Config {
    /// Reports invalid values.
    pub fn check(&self, check: &mut Check) {
        if !self.url.is_empty() {
            match Url::parse(self.url.expose()) {
                Err(_) => check.problem("url", "is not a URL such as https://registry:8081"),
                Ok(url) if url.scheme() != "https" && !check.is_local() => {
                    check.problem("url", "must be https outside the environment local");
                }
                Ok(_) => {}
            }
        }
        check.range("request_time_max_ms", self.request_time_max_ms, 10..=60_000);
        check.range("denied_s", self.denied_s, 1..=3_600);
        check.range("ids_max", self.ids_max as u64, 1..=1_000_000);
    }
}

/// A failed request to the registry. It is never the fault of a record's sender.
#[derive(Clone, Debug, Error)]
pub enum RegistryFault {
    /// The registry did not answer in time, or its URL is invalid.
    #[error("failed to reach the schema registry (registry.url): {0}")]
    Unreachable(String),
    /// The registry's response is an error, or not what its API specifies.
    #[error("{action} failed: the schema registry answered {status}: {reason}")]
    Refused {
        /// HTTP status of the response.
        status: u16,
        /// Action that failed.
        action: &'static str,
        /// First 200 characters of the response, or what is wrong with it.
        reason: String,
    },
}

/// Client of the registry, with the verdicts so far.
pub struct Registry {
    client: Client,
    base: Url,
    ids: ArcSwap<Ids>,
    config: Config,
    /// Allows one request about an id at a time.
    asking: Mutex<Asking>,
    /// Failed requests about ids.
    faults: AtomicU64,
}

/// State of the requests about ids.
#[derive(Default)]
struct Asking {
    /// When each denied id was denied.
    denied: HashMap<u32, Instant>,
    last_fault: Option<RegistryFault>,
}

#[derive(Deserialize)]
struct SchemaAnswer {
    schema: String,
    #[serde(rename = "schemaType", default)]
    schema_type: Option<String>,
    /// Types that the schema takes from other schemas, which no local plan has.
    #[serde(default)]
    references: Vec<serde_json::Value>,
}

/// Error response of the API (Confluent Schema Registry API reference, "Errors").
#[derive(Deserialize)]
struct ErrorAnswer {
    error_code: u32,
}

/// Error code of the API: no schema has the id.
const SCHEMA_NOT_FOUND: u32 = 40_403;

#[derive(Deserialize)]
struct IdAnswer {
    id: u32,
}

impl Registry {
    /// Makes a client for `registry.url`; `None` when that is empty.
    ///
    /// # Errors
    ///
    /// When the URL is invalid, or TLS cannot be set up.
    pub fn new(config: &Config) -> Result<Option<Self>, RegistryFault> {
        if config.url.is_empty() {
            return Ok(None);
        }
        let mut base =
            Url::parse(config.url.expose()).map_err(|error| RegistryFault::Unreachable(error.to_string()))?;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let timeout = Duration::from_millis(config.request_time_max_ms);
        let client = Client::builder().timeout(timeout).build().map_err(unreachable)?;
        Ok(Some(Self {
            client,
            base,
            ids: ArcSwap::default(),
            config: config.clone(),
            asking: Mutex::default(),
            faults: AtomicU64::new(0),
        }))
    }

    /// The verdicts so far.
    #[must_use]
    pub fn ids(&self) -> Arc<Ids> {
        self.ids.load_full()
    }

    /// Requests an id, unless it is known. Afterwards [`Registry::ids`] has it, until `registry.ids_max` is exceeded.
    ///
    /// A caller that waited while another request failed returns that failure without a request of its own: otherwise
    /// requests would queue up, one after another, at a registry that hangs.
    ///
    /// # Errors
    ///
    /// [`RegistryFault`]: the id is still unknown; retry.
    pub async fn resolve(&self, id: u32, catalog: &Catalog) -> Result<Verdict, RegistryFault> {
        let faults = self.faults.load(Ordering::Acquire);
        let mut asking = self.asking.lock().await;
        if let Some(verdict) = self.ids.load().get(id) {
            return Ok(verdict);
        }
        if let Some(fault) = &asking.last_fault
            && self.faults.load(Ordering::Acquire) != faults
        {
            return Err(fault.clone());
        }
        let schema = self.schema(id).await.inspect_err(|fault| {
            asking.last_fault = Some(fault.clone());
            self.faults.fetch_add(1, Ordering::Release);
        })?;
        let verdict = schema.map_or(Verdict::Denied, |schema| catalog.judge(&schema));
        self.forget_old_denials(&mut asking.denied);
        let ids = self.ids.load();
        // A flood of made-up ids must not grow the snapshot without bound: it starts over empty.
        let kept = if ids.len() < self.config.ids_max {
            Ids::clone(&ids)
        } else {
            asking.denied.clear();
            Ids::default()
        };
        if verdict == Verdict::Denied {
            asking.denied.insert(id, Instant::now());
        }
        self.ids.store(Arc::new(kept.with(id, verdict)));
        Ok(verdict)
    }

    /// As [`Registry::resolve`] for each id, up to the first failure.
    ///
    /// # Errors
    ///
    /// [`RegistryFault`]: retry for the ids that are still unknown.
    pub async fn resolve_all(&self, ids: &[u32], catalog: &Catalog) -> Result<(), RegistryFault> {
        for &id in ids {
            self.resolve(id, catalog).await?;
        }
        Ok(())
    }

    /// Removes denials older than `registry.denied_s`, so that the ids are requested again. Call it regularly.
    pub async fn refresh(&self) {
        let mut asking = self.asking.lock().await;
        self.forget_old_denials(&mut asking.denied);
    }

    fn forget_old_denials(&self, denied: &mut HashMap<u32, Instant>) {
        let patience = Duration::from_secs(self.config.denied_s);
        let old: Vec<_> = denied
            .iter()
            .filter(|(_, since)| since.elapsed() >= patience)
            .map(|(id, _)| *id)
            .collect();
        if old.is_empty() {
            return;
        }
        let mut ids = Ids::clone(&self.ids.load());
        for id in old {
            denied.remove(&id);
            ids = ids.without(id);
        }
        self.ids.store(Arc::new(ids));
    }

    /// Text of a schema; `None` when the registry does not have the id, or the schema is not Avro or has references.
    ///
    /// Only the registry's own error code denies an id: a 404 of a proxy or a wrong path in `registry.url` is a fault.
    ///
    /// # Errors
    ///
    /// [`RegistryFault`].
    pub async fn schema(&self, id: u32) -> Result<Option<String>, RegistryFault> {
        let answer = self
            .client
            .get(self.url(&["schemas", "ids", &id.to_string()]))
            .send()
            .await
            .map_err(unreachable)?;
        let (status, body) = body(answer, "reading a schema").await?;
        if status == StatusCode::NOT_FOUND
            && serde_json::from_slice(&body)
                .is_ok_and(|error: ErrorAnswer| error.error_code == SCHEMA_NOT_FOUND)
        {
            return Ok(None);
        }
        let answer: SchemaAnswer = parse(status, &body, "reading a schema")?;
        let avro = answer.schema_type.as_deref().is_none_or(|kind| kind == "AVRO");
        Ok((avro && answer.references.is_empty()).then_some(answer.schema))
    }

    /// Registers a schema under a subject, and returns its id. A schema that is already registered keeps its id.
    ///
    /// # Errors
    ///
    /// [`RegistryFault`], for example when the schema is not compatible with the subject's earlier ones.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryFault> {
        let request = self.client.post(self.url(&["subjects", subject, "versions"]));
        let request = request
            .header(reqwest::header::CONTENT_TYPE, MEDIA_TYPE)
            .json(&json!({ "schema": schema }));
        let answer: IdAnswer =
            read(request.send().await.map_err(unreachable)?, "registering a schema").await?;
        Ok(answer.id)
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        // Fails only for URLs that cannot be a base, and every http URL can.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }
}

/// Ids with a request under way, so that each is requested once at a time.
#[derive(Debug, Default)]
pub struct Questions(std::sync::Mutex<HashSet<u32>>);

impl Questions {
    /// Marks an id as requested; false where it already is.
    pub fn begin(&self, id: u32) -> bool {
        self.ids().insert(id)
    }

    /// Unmarks an id, so that it may be requested again.
    pub fn end(&self, id: u32) {
        self.ids().remove(&id);
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read<T: for<'d> Deserialize<'d>>(
    answer: Response,
    action: &'static str,
) -> Result<T, RegistryFault> {
    let (status, body) = body(answer, action).await?;
    parse(status, &body, action)
}

/// Reads a response piece by piece, so that its size is bounded whatever its header says.
async fn body(mut answer: Response, action: &'static str) -> Result<(StatusCode, Vec<u8>), RegistryFault> {
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(unreachable)? {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            let reason = format!("the response is larger than {ANSWER_BYTES_MAX} bytes");
            return Err(RegistryFault::Refused {
                status: status.as_u16(),
                action,
                reason,
            });
        }
        body.extend_from_slice(&piece);
    }
    Ok((status, body))
}

fn parse<T: for<'d> Deserialize<'d>>(
    status: StatusCode,
    body: &[u8],
    action: &'static str,
) -> Result<T, RegistryFault> {
    let refused = |reason: String| RegistryFault::Refused {
        status: status.as_u16(),
        action,
        reason,
    };
    if !status.is_success() {
        return Err(refused(String::from_utf8_lossy(body).chars().take(200).collect()));
    }
    serde_json::from_slice(body).map_err(|error| refused(error.to_string()))
}

fn unreachable(error: reqwest::Error) -> RegistryFault {
    RegistryFault::Unreachable(error.without_url().to_string())
}

/// The subject of a record type on a topic (Confluent's TopicRecordNameStrategy), since a topic may carry several types.
#[must_use]
pub fn subject(topic: &str, plan: &Plan) -> String {
    format!("{topic}-{}", plan.full_name())
}
