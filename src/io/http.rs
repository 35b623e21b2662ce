//! Health, readiness and metrics over HTTP.

use std::net::{Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Check;

/// Where health, readiness and metrics are served.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address and port. Nothing served here is secret, but keep it off public networks. Default: `127.0.0.1:9464`.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// How many connections are served at a time; more wait. Default: 64.
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
    /// Notes what makes no sense.
    pub fn check(&self, check: &mut Check) {
        check.range("http.connections_max", self.connections_max as u64, 1..=1024);
    }
}
