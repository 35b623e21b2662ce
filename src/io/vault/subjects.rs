//! Subject keys: cached with a bound, fetched and created in batches.
//!
//! No subject id is kept: an entry is found by a keyed hash of tenant and id that is useless outside this process. Use
//! counts live in the keys themselves and are added to the vault's rows every `vault.report_interval_s`, those of
//! evicted entries included. So a row lags its key by what all gates seal in one interval, and a killed gate loses one
//! interval's count: negligible, since a key is replaced after 2^24 uses and could bear 2^32.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter};
use siphasher::sip128::{Hasher128, SipHasher24};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use std::hash::Hasher;

use super::config::Config;
use super::fault::VaultFault;
use super::home::Home;
use super::shared::{Shared, fill, random};
use super::tenants::random_key_id;
use pulsegate_core::crypto::envelope::Nonce;
use pulsegate_core::crypto::keys::{Key32, ROTATE_AGE_MS, ROTATE_SEALS, SubjectKey, Wrapped};
use pulsegate_core::crypto::lifetime::Lifetime;
use pulsegate_core::crypto::token::Lookup;

/// Most subjects in one request; more are split over several requests.
const REQUEST_SUBJECTS_MAX: usize = 5_000;
/// Most counts in one report request.
const REPORT_KEYS_MAX: usize = 10_000;
/// How often a subject is requested until it has a key. Even with a million subjects a random key id is taken only once
/// in 4,000 times, so a second round is rare and a failed fourth one is a fault.
const ROUNDS_MAX: usize = 4;
/// Random bytes per new subject: its salt, its key, and the nonce that wraps the key.
const RANDOM_BYTES: usize = 16 + 32 + 12;

/// The cache of subject keys of one gate.
pub struct Subjects {
    shared: Arc<Shared>,
    cache: Cache<u128, Arc<Held>, UnitWeighter, DefaultHashBuilder, Farewell>,
    /// Keyed with the secret from which the names of entries are made.
    names: SipHasher24,
    started: Instant,
    lifetime: Lifetime,
    unreported: Arc<Unreported>,
}

/// A cached key.
struct Held {
    key: Arc<SubjectKey>,
    /// When the vault last confirmed it as current, in seconds since the start.
    read_s: AtomicU32,
    /// Encryptions that were reported, or are in the next report.
    reported: AtomicU64,
}

impl Held {
    /// The encryptions since the last call.
    fn take_uses(&self) -> u64 {
        let seals = self.key.field_key().seals();
        seals.saturating_sub(self.reported.fetch_max(seals, Ordering::Relaxed))
    }
}

/// Encryptions by key id that are not reported yet. There are at most as many entries as keys were cached since the
/// last report; while the vault is down no key is added, so none is evicted.
#[derive(Default)]
struct Unreported(Mutex<HashMap<u32, u64>>);

impl Unreported {
    fn add(&self, key_id: u32, uses: u64) {
        if uses > 0 {
            // A panic under the lock can lose a count, but no consistency.
            *self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(key_id)
                .or_default() += uses;
        }
    }

    fn take(&self) -> Vec<(u32, u64)> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain()
            .collect()
    }
}

/// Keeps the use count of an evicted entry.
#[derive(Clone)]
struct Farewell(Arc<Unreported>);

impl Lifecycle<u128, Arc<Held>> for Farewell {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: u128, held: Arc<Held>) {
        self.0.add(held.key.field_key().key_id(), held.take_uses());
    }
}

/// A requested subject.
struct Asked<'s> {
    name: u128,
    home: Arc<Home>,
    subject: &'s [u8],
    lookup: Lookup,
}

/// The vault's answer for one subject.
struct Answer {
    salt: [u8; 16],
    key_id: u32,
    wrapped: Wrapped,
    seals: u64,
}

impl Subjects {
    pub(super) fn new(config: &Config, shared: Arc<Shared>) -> Result<Self, VaultFault> {
        let unreported = Arc::new(Unreported::default());
        let farewell = Farewell(Arc::clone(&unreported));
        let most = config.subjects_max;
        let cache = Cache::with(
            most,
            most as u64,
            UnitWeighter,
            DefaultHashBuilder::default(),
            farewell,
        );
        Ok(Self {
            shared,
            cache,
            names: SipHasher24::new_with_key(&*random()?),
            started: Instant::now(),
            lifetime: Lifetime {
                fresh: Duration::from_secs(config.subject_fresh_s),
                stale: Duration::from_secs(config.subject_stale_s),
            },
            unreported,
        })
    }

    /// The current key of a subject of a tenant (by its number in the keyring), if it is in memory and may be used.
    ///
    /// A key that was not confirmed for `vault.subject_fresh_s`, or is used up, must be fetched again; while the vault
    /// is down it may be used until `vault.subject_stale_s`.
    #[must_use]
    pub fn get(&self, tenant: u16, subject: &[u8]) -> Option<Arc<SubjectKey>> {
        self.get_at(Instant::now(), tenant, subject)
    }

    /// As [`Self::get`], at the time `now`.
    #[must_use]
    pub fn get_at(&self, now: Instant, tenant: u16, subject: &[u8]) -> Option<Arc<SubjectKey>> {
        let held = self.cache.get(&self.name(tenant, subject))?;
        let read_s = held.read_s.load(Ordering::Relaxed);
        let age = Duration::from_secs(self.seconds(now).saturating_sub(read_s).into());
        let seals = held.key.field_key().seals();
        self.lifetime
            .permits(age, seals, self.shared.is_down())
            .then(|| Arc::clone(&held.key))
    }

    /// Number of cached keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether no key is cached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fetches the current keys of these subjects from the vault, which creates missing ones: one round trip for up to
    /// 5,000 subjects, known or new. Afterwards [`Subjects::get`] has them. They are also returned, in the requested
    /// order, so that a batch larger than the cache works as well.
    ///
    /// # Errors
    /// [`VaultFault`], within the configured time. Keys that were fetched before it stay cached.
    pub async fn fetch_or_create(
        &self,
        subjects: &[(u16, &[u8])],
    ) -> Result<Vec<Arc<SubjectKey>>, VaultFault> {
        let mut asked: HashMap<u128, Asked<'_>> = HashMap::with_capacity(subjects.len());
        let keys = self.shared.keys.load_full();
        let mut names = Vec::with_capacity(subjects.len());
        for &(tenant, subject) in subjects {
            let name = self.name(tenant, subject);
            names.push(name);
            if let std::collections::hash_map::Entry::Vacant(entry) = asked.entry(name) {
                let home = keys.home(tenant).cloned();
                let home = home.ok_or_else(|| VaultFault::damaged("tenant", "its number is unknown"))?;
                let lookup = home.branch.tenant.lookup(subject);
                entry.insert(Asked {
                    name,
                    home,
                    subject,
                    lookup,
                });
            }
        }
        self.report_used_up(&names).await?;
        let mut found = HashMap::with_capacity(asked.len());
        let mut asked: Vec<_> = asked.into_values().collect();
        // The same order in all gates, so that two that create the same subjects never deadlock.
        asked.sort_unstable_by_key(|asked| (asked.home.branch.id, asked.lookup));
        for chunk in asked.chunks(REQUEST_SUBJECTS_MAX) {
            let fetched = self.fetch(chunk.iter().collect(), &mut found).await;
            self.shared.heard(fetched)?;
        }
        let missing = || VaultFault::damaged("subject key", "the vault returned no key for a subject");
        names
            .iter()
            .map(|name| found.get(name).cloned().ok_or_else(missing))
            .collect()
    }

    /// Reports use counts where a key is used up by the count in memory: the vault replaces it only by its own count.
    async fn report_used_up(&self, names: &[u128]) -> Result<(), VaultFault> {
        let used_up = |name| {
            let held: Option<Arc<Held>> = self.cache.peek(name);
            held.is_some_and(|held| held.key.field_key().seals() >= ROTATE_SEALS)
        };
        if names.iter().any(used_up) {
            self.report().await
        } else {
            Ok(())
        }
    }

    async fn fetch(
        &self,
        mut asked: Vec<&Asked<'_>>,
        found: &mut HashMap<u128, Arc<SubjectKey>>,
    ) -> Result<(), VaultFault> {
        for _ in 0..ROUNDS_MAX {
            let mut answers = self.request(&asked).await?;
            let mut unanswered = Vec::new();
            for subject in asked {
                match answers.remove(&(subject.home.branch.id, subject.lookup)) {
                    Some(answer) => {
                        found.insert(subject.name, self.keep(subject, &answer)?);
                    }
                    None => unanswered.push(subject),
                }
            }
            if unanswered.is_empty() {
                return Ok(());
            }
            asked = unanswered;
        }
        Err(VaultFault::damaged("subject key", "no free key id was found"))
    }

    async fn request(&self, asked: &[&Asked<'_>]) -> Result<HashMap<(i32, Lookup), Answer>, VaultFault> {
        let action = "fetching subject keys";
        let mut randoms = zeroize::Zeroizing::new(vec![0_u8; asked.len() * RANDOM_BYTES]);
        fill(&mut randoms)?;
        let mut columns = Columns::default();
        for (asked, random) in asked.iter().zip(randoms.chunks_exact(RANDOM_BYTES)) {
            columns.push(asked, random)?;
        }
        let query = sqlx::query(
            "select * from subject_keys($1, $2, $3, $4, $5, $6, $7::bigint * interval '1 millisecond', $8)",
        )
        .bind(columns.tenants)
        .bind(columns.lookups)
        .bind(columns.salts)
        .bind(columns.key_ids)
        .bind(columns.wraps)
        .bind(columns.commitments)
        .bind(ROTATE_AGE_MS)
        .bind(ROTATE_SEALS.cast_signed());
        let rows = self
            .shared
            .database
            .ask(action, async |connection| {
                let rows = query.fetch_all(connection).await;
                rows.map_err(|error| VaultFault::database(action, &error))
            })
            .await?;
        rows.iter().map(|row| Answer::read(row, action)).collect()
    }

    /// Opens the key in the answer and caches it. A key that is already cached keeps its count.
    fn keep(&self, asked: &Asked<'_>, answer: &Answer) -> Result<Arc<SubjectKey>, VaultFault> {
        let old = self.cache.peek(&asked.name);
        if let Some(held) = &old {
            if held.key.field_key().key_id() == answer.key_id {
                held.read_s.store(self.now_s(), Ordering::Relaxed);
                return Ok(Arc::clone(&held.key));
            }
            self.unreported
                .add(held.key.field_key().key_id(), held.take_uses());
        }
        let tenant = &asked.home.branch.tenant;
        let field_key = tenant
            .open_data_key(answer.key_id, &asked.lookup, answer.seals, &answer.wrapped)
            .map_err(|error| VaultFault::damaged("subject key", error))?;
        let key = tenant
            .subject_key(asked.subject, answer.salt, field_key)
            .map_err(|error| VaultFault::damaged("subject", error))?;
        let key = Arc::new(key);
        let held = Held {
            key: Arc::clone(&key),
            read_s: AtomicU32::new(self.now_s()),
            reported: AtomicU64::new(answer.seals),
        };
        self.cache.insert(asked.name, Arc::new(held));
        Ok(key)
    }

    /// Adds the use counts of keys to the vault's rows.
    ///
    /// # Errors
    /// [`VaultFault`]; the counts are then kept for the next report.
    pub(super) async fn report(&self) -> Result<(), VaultFault> {
        for (_, held) in self.cache.iter() {
            self.unreported
                .add(held.key.field_key().key_id(), held.take_uses());
        }
        let mut waiting = self.unreported.take();
        while !waiting.is_empty() {
            let chunk = waiting.split_off(waiting.len().saturating_sub(REPORT_KEYS_MAX));
            let (ids, uses): (Vec<i64>, Vec<i64>) = chunk
                .iter()
                .map(|&(id, uses)| (i64::from(id), uses.cast_signed()))
                .unzip();
            let action = "reporting the use of subject keys";
            let query = sqlx::query(ADD_USES).bind(ids).bind(uses);
            let added = async |connection: &mut PgConnection| {
                let added = query.execute(connection).await;
                added.map_err(|error| VaultFault::database(action, &error))
            };
            if let Err(fault) = self.shared.database.ask(action, added).await {
                // The vault may have counted although its answer got lost: counting twice is the safe side.
                chunk
                    .into_iter()
                    .chain(waiting)
                    .for_each(|(id, uses)| self.unreported.add(id, uses));
                return Err(fault);
            }
        }
        Ok(())
    }

    fn name(&self, tenant: u16, subject: &[u8]) -> u128 {
        let mut hasher = self.names;
        hasher.write_u16(tenant);
        hasher.write(subject);
        hasher.finish128().as_u128()
    }

    fn now_s(&self) -> u32 {
        self.seconds(Instant::now())
    }

    /// Whole seconds since the start.
    fn seconds(&self, at: Instant) -> u32 {
        u32::try_from(at.duration_since(self.started).as_secs()).unwrap_or(u32::MAX)
    }
}

/// Rows are locked in the order of their ids, so that two gates that report the same keys never deadlock.
const ADD_USES: &str = "
with used as (select * from unnest($1::bigint[], $2::bigint[]) as u (key_id, more)),
     locked as (select k.key_id from subject_key k join used using (key_id) order by k.key_id for no key update of k)
update subject_key k set encryptions = k.encryptions + u.more
from locked join used u using (key_id) where k.key_id = locked.key_id";

/// The parallel arrays of a request.
#[derive(Default)]
struct Columns {
    tenants: Vec<i32>,
    lookups: Vec<Vec<u8>>,
    salts: Vec<Vec<u8>>,
    key_ids: Vec<i64>,
    wraps: Vec<Vec<u8>>,
    commitments: Vec<Vec<u8>>,
}

impl Columns {
    /// Adds a subject with the salt and the key that it gets if it has none.
    fn push(&mut self, asked: &Asked<'_>, random: &[u8]) -> Result<(), VaultFault> {
        let short = |_| VaultFault::Invalid("too few random bytes were drawn".to_owned());
        let (salt, rest) = random.split_at(16);
        let (key, nonce) = rest.split_at(32);
        let key = Key32::random(key.try_into().map_err(short)?);
        let nonce = Nonce::from_random(nonce.try_into().map_err(short)?);
        let id = random_key_id()?;
        let key_id = u32::try_from(id).map_err(|error| VaultFault::damaged("key id", error))?;
        let wrapped = asked
            .home
            .branch
            .tenant
            .wrap_data_key(key_id, &asked.lookup, &key, nonce)
            .map_err(|error| VaultFault::Invalid(format!("failed to wrap a data key: {error}")))?;
        self.tenants.push(asked.home.branch.id);
        self.lookups.push(asked.lookup.to_vec());
        self.salts.push(salt.to_vec());
        self.key_ids.push(id);
        self.wraps.push(wrapped.sealed);
        self.commitments.push(wrapped.commitment.to_vec());
        Ok(())
    }
}

impl Answer {
    fn read(row: &PgRow, action: &'static str) -> Result<((i32, Lookup), Self), VaultFault> {
        let fault = |error| VaultFault::database(action, &error);
        let length = |error| VaultFault::damaged("subject key", error);
        let bytes = |index: usize| row.try_get::<&[u8], _>(index).map_err(fault);
        let number = |index: usize| row.try_get::<i64, _>(index).map_err(fault);
        let answer = Self {
            salt: bytes(2)?.try_into().map_err(length)?,
            key_id: u32::try_from(number(3)?).map_err(|error| VaultFault::damaged("key id", error))?,
            wrapped: Wrapped {
                sealed: bytes(4)?.to_vec(),
                commitment: bytes(5)?.try_into().map_err(length)?,
            },
            seals: number(6)?.cast_unsigned(),
        };
        Ok((
            (
                row.try_get(0).map_err(fault)?,
                bytes(1)?.try_into().map_err(length)?,
            ),
            answer,
        ))
    }
}
