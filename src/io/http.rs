//! Health, readiness and metrics over HTTP: `/healthz`, `/readyz`, `/metrics`.
//!
//! A connection carries one request, must complete it within `CONNECTION_TIME_MAX`, and is served only while fewer than
//! `http.connections_max` others are. Request bodies are never read.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::telemetry::{Health, Metrics};
use pulsegate_settings::Check;

/// How long a connection may live; a scrape takes milliseconds.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How often recorded samples are moved into their buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long to wait after accepting a connection failed, for example because no file descriptor was left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Where health, readiness and metrics are served.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address and port. Nothing served here is secret, but keep it off public networks. Default: `127.0.0.1:9464`.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Connections that are served at a time; further ones wait. Default: 64.
    pub connections_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)),
            connections_max: 64,
        }
    }
}

impl Config {
    /// Reports invalid values.
    pub fn check(&self, check: &mut Check) {
        check.range("connections_max", self.connections_max as u64, 1..=1024);
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address can't be listened on.
    #[error("failed to serve health and metrics on {address}: {cause}; choose another http.listen")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// Error of the operating system.
        cause: io::Error,
    },
}

/// The running server. Dropping it stops the server; a role does so last, so that probes are answered while it drains.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on the configured address and serves in a task of its own.
    ///
    /// # Errors
    ///
    /// When the address can't be listened on, for example because another process uses it.
    pub async fn start(config: &Config, health: Arc<Health>, metrics: Arc<Metrics>) -> Result<Self, Error> {
        let fault = |cause| Error::Listen {
            address: config.listen,
            cause,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(fault)?;
        let address = listener.local_addr().map_err(fault)?;
        let connections = Arc::new(Semaphore::new(config.connections_max));
        let task = tokio::spawn(serve(listener, connections, Shared { health, metrics }));
        tracing::info!(%address, "serving health and metrics");
        Ok(Self { address, task })
    }

    /// Address that is listened on, with the assigned port where port 0 was configured.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Shared {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

async fn serve(listener: TcpListener, connections: Arc<Semaphore>, shared: Shared) {
    let metrics = Arc::clone(&shared.metrics);
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(shared);
    let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
    // Dropping the set with this task ends its connections.
    let mut open = JoinSet::new();
    loop {
        let accepted = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (listener.accept().await, permit)
        };
        tokio::select! {
            _ = upkeep.tick() => metrics.upkeep(),
            Some(_) = open.join_next() => {}
            (accepted, permit) = accepted => match accepted {
                Ok((stream, _)) => {
                    let router = router.clone();
                    open.spawn(async move {
                        let _permit = permit;
                        // Errors and timeouts of a client need no action here.
                        let _ = tokio::time::timeout(CONNECTION_TIME_MAX, connection(stream, router)).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection to the health server, retrying");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            },
        }
    }
}

async fn connection(stream: TcpStream, router: Router) -> Result<(), hyper::Error> {
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
}

async fn healthz(State(shared): State<Shared>) -> Response {
    let liveness = shared.health.liveness();
    answer(liveness.alive, &liveness)
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let readiness = shared.health.readiness();
    answer(readiness.ready, &readiness)
}

async fn scrape(State(shared): State<Shared>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    let mut text = shared.metrics.render();
    shared.health.render(&mut text);
    (content_type, text).into_response()
}

fn answer(good: bool, body: &impl Serialize) -> Response {
    let status = if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    match serde_json::to_string(body) {
        Ok(body) => (status, content_type, body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::telemetry::health::HoldCause;

    async fn start(connections_max: usize) -> (Server, Arc<Health>) {
        let health = Health::new(1);
        let config = Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            connections_max,
        };
        let server = Server::start(&config, Arc::clone(&health), Arc::new(Metrics::new())).await;
        (server.expect("port 0 is always free"), health)
    }

    /// Status code and body of a request.
    async fn request(server: &Server, head: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(server.address())
            .await
            .expect("the server listens");
        // A server that refuses early may reset the connection during the write or the read.
        let _ = stream
            .write_all(format!("{head}\r\nHost: test\r\n\r\n").as_bytes())
            .await;
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8(bytes).expect("answers are UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or(0), body.to_owned())
    }

    async fn get(server: &Server, path: &str) -> (u16, String) {
        request(server, &format!("GET {path} HTTP/1.1")).await
    }

    #[tokio::test]
    async fn readiness_follows_lanes_and_names_the_held_ones() {
        let (server, health) = start(4).await;
        let worker = health.worker(0);
        assert_eq!(get(&server, "/readyz").await.0, 503);
        worker.joined();
        assert_eq!(get(&server, "/readyz").await.0, 200);
        worker.assigned(5);
        worker.hold(5, HoldCause::SubjectKeys);
        let (status, body) = get(&server, "/readyz").await;
        assert_eq!(status, 503);
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            body["held"],
            serde_json::json!([{ "log": "raw", "lane": 5, "cause": "subject_keys" }])
        );
        worker.release(5);
        assert_eq!(get(&server, "/readyz").await.0, 200);
        health.drain();
        assert_eq!(get(&server, "/readyz").await.0, 503);
        assert_eq!(get(&server, "/healthz").await.0, 200);
    }

    #[tokio::test]
    async fn a_dead_worker_is_unhealthy() {
        let (server, health) = start(4).await;
        drop(health.worker(0));
        assert_eq!(
            get(&server, "/healthz").await,
            (503, r#"{"alive":false,"dead_workers":[0]}"#.to_owned())
        );
    }

    #[tokio::test]
    async fn metrics_are_served_and_other_requests_refused() {
        let (server, _health) = start(4).await;
        let (status, body) = get(&server, "/metrics").await;
        assert_eq!(status, 200);
        assert!(body.contains("pulsegate_records_total{outcome=\"clean\"} 0\n"));
        assert_eq!(get(&server, "/").await.0, 404);
        assert_eq!(request(&server, "POST /metrics HTTP/1.1").await.0, 405);
        let long = format!("GET /metrics HTTP/1.1\r\nx: {}", "a".repeat(2 * HEAD_BYTES_MAX));
        assert_eq!(request(&server, &long).await.0, 431);
    }

    #[tokio::test]
    async fn an_idle_connection_is_closed_and_its_place_is_reused() {
        let (server, _health) = start(1).await;
        let idle = TcpStream::connect(server.address())
            .await
            .expect("the server listens");
        // The server must have accepted the idle connection before the clock is stopped.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let waiting = get(&server, "/healthz");
        tokio::pin!(waiting);
        assert!(
            tokio::time::timeout(Duration::from_millis(100), &mut waiting)
                .await
                .is_err(),
            "the only place is taken"
        );
        tokio::time::pause();
        tokio::time::advance(CONNECTION_TIME_MAX).await;
        tokio::time::resume();
        assert_eq!(waiting.await.0, 200);
        drop(idle);
    }

    #[tokio::test]
    async fn an_occupied_port_is_named() {
        let (server, health) = start(1).await;
        let config = Config {
            listen: server.address(),
            connections_max: 1,
        };
        let error = Server::start(&config, health, Arc::new(Metrics::new()))
            .await
            .expect_err("the port is taken");
        assert!(error.to_string().contains(&server.address().to_string()));
    }
}
