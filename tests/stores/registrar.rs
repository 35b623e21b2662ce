//! A vault in a corner: its registrar, its gates, and key lines to import.

use std::io::Cursor;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pulsegate::config::Config;
use pulsegate::io::topology;
use pulsegate::io::vault::import::{ImportError, Imported};
use pulsegate::io::vault::registrar::Registrar;
use pulsegate::io::vault::{Vault, VaultFault};
use pulsegate::telemetry::metrics::Metrics;

/// The import line of an HS256 key whose secret is derived from its name.
pub fn line(tenant: &str, device: &str, kid: &str) -> String {
    let secret = STANDARD.encode(format!("{kid:-<40}"));
    format!(
        r#"{{"device":"{device}","kid":"{kid}","tenant":"{tenant}","class":"wearable","profile":"jws","alg":"HS256","secret":"{secret}"}}"#
    )
}

/// Imports lines.
pub async fn import(registrar: &Registrar, text: &str) -> Result<Imported, ImportError> {
    registrar.import(&mut Cursor::new(text.as_bytes())).await
}

/// A gate's view of the vault.
pub async fn gate(config: &Config) -> Result<Arc<Vault>, VaultFault> {
    Vault::connect(
        &config.vault_settings(),
        config.audit_settings(),
        Arc::new(Metrics::new()),
    )
    .await
}

/// Waits until `reached` holds, and returns the time that took.
pub async fn within(limit: Duration, what: &str, reached: impl Fn() -> bool) -> Duration {
    let since = Instant::now();
    while !reached() {
        assert!(since.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    since.elapsed()
}

/// Applies the topology and connects a registrar; there are no devices yet.
pub async fn registry(config: &Config) -> Registrar {
    topology::apply(&config.topology_settings())
        .await
        .expect("applied");
    Registrar::connect(&config.vault_settings())
        .await
        .expect("the registrar's login works")
}
