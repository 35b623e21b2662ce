//! Identifies the event of a raw or clean record: both carry its event id in plain text.

use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use super::error::VerifyError;
use crate::config::Config;
use crate::io::registry::Registry;
use crate::io::schemas::Schemas;
use pulsegate_core::event::{Arena, Catalog, Ids, Located, Role, Verdict};
use pulsegate_ledger::verify::account::EventId;

/// Reads event ids. Blocking: it fetches schemas that it does not know from the schema registry.
pub(super) struct Events {
    catalog: Catalog,
    registry: Option<Registry>,
    ids_max: usize,
    raw_ids: Ids,
    clean_ids: Ids,
    arena: Arena,
    runtime: Handle,
}

impl Events {
    pub(super) fn new(config: &Config, runtime: Handle) -> Result<Self, VerifyError> {
        let usage = |error: String| VerifyError::Usage(error);
        let schemas = Schemas::read(&config.event).map_err(|error| usage(error.to_string()))?;
        let registry = Registry::new(&config.registry).map_err(|error| usage(error.to_string()))?;
        Ok(Self {
            catalog: schemas.catalog,
            registry,
            ids_max: config.registry.ids_max,
            raw_ids: Ids::default(),
            clean_ids: Ids::default(),
            arena: Arena::default(),
            runtime,
        })
    }

    /// Returns the event of a raw record; `None` if the record is not an event.
    pub(super) fn raw(&mut self, value: &[u8]) -> Result<Option<EventId>, VerifyError> {
        if let Located::NeedsSchema(id) = self.catalog.locate(value, &self.raw_ids)
            && self.raw_ids.len() < self.ids_max
        {
            let schema = self.schema(id)?;
            let verdict = schema.map_or(Verdict::Denied, |schema| self.catalog.judge(&schema));
            self.raw_ids = self.raw_ids.with(id, verdict);
        }
        let Located::Plan {
            plan,
            format,
            datum_start,
        } = self.catalog.locate(value, &self.raw_ids)
        else {
            return Ok(None);
        };
        self.arena.clear();
        let walk = plan.walk(format, value, datum_start, &mut self.arena).ok();
        Ok(walk.map(|walk| digest(walk.event_id.of(value, &self.arena))))
    }

    /// Returns the event of a clean record; `None` if the record is not an event.
    pub(super) fn clean(&mut self, value: &[u8]) -> Result<Option<EventId>, VerifyError> {
        if let Located::NeedsSchema(id) = self.catalog.locate_clean(value, &self.clean_ids)
            && self.clean_ids.len() < self.ids_max
        {
            let schema = self.schema(id)?;
            let verdict = schema.map_or(Verdict::Denied, |schema| self.catalog.judge_clean(&schema));
            self.clean_ids = self.clean_ids.with(id, verdict);
        }
        let Located::Plan {
            plan,
            format,
            datum_start,
        } = self.catalog.locate_clean(value, &self.clean_ids)
        else {
            return Ok(None);
        };
        let event = value
            .get(datum_start..)
            .and_then(|datum| plan.clean_json(format, datum).ok());
        let id = event.zip(plan.role(Role::EventId)).and_then(|(event, path)| {
            let found = path.split('.').try_fold(&event, |value, name| value.get(name))?;
            Some(digest(found.as_str()?.as_bytes()))
        });
        Ok(id)
    }

    fn schema(&self, id: u32) -> Result<Option<String>, VerifyError> {
        let Some(registry) = &self.registry else {
            return Ok(None);
        };
        self.runtime
            .block_on(registry.schema(id))
            .map_err(|fault| VerifyError::Registry(fault.to_string()))
    }
}

/// Upper and lower case are equal, since formats write a UUID differently.
fn digest(id: &[u8]) -> EventId {
    let digest = Sha256::digest(id.to_ascii_lowercase());
    let half = digest.iter().take(16);
    half.fold(0, |id, byte| id << 8 | u128::from(*byte))
}
