//! At a centre: which datastores may be read until when, with the keys keyd released for that.
//!
//! A datastore is unlocked while a grant runs or a restore goes on, and locked when the last of
//! them has ended.

use crate::store::Datastore;
use contract::Error;
use format::DatastoreId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

#[derive(Default)]
struct Grant {
    until: Option<SystemTime>,
    restores: usize,
    store: Option<Arc<Datastore>>,
}

/// All grants of a centre.
#[derive(Default)]
pub(crate) struct Grants(Arc<Mutex<HashMap<DatastoreId, Grant>>>);

/// A restore under way: its datastore stays unlocked until this is dropped.
pub(crate) struct Held {
    grants: Arc<Mutex<HashMap<DatastoreId, Grant>>>,
    datastore: DatastoreId,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Grants {
    /// Lets agents paired for it read an unlocked datastore until then.
    pub(crate) fn grant(&self, store: Arc<Datastore>, until: SystemTime) {
        let mut grants = locked(&self.0);
        let grant = grants.entry(store.id).or_default();
        grant.until = Some(grant.until.map_or(until, |before| before.max(until)));
        grant.store = Some(store);
    }

    /// A restore for an agent, by the grant that runs.
    pub(crate) fn held(&self, datastore: DatastoreId) -> Result<Held, Error> {
        let now = SystemTime::now();
        let mut grants = locked(&self.0);
        match grants.get_mut(&datastore) {
            Some(grant) if grant.until.is_some_and(|until| until > now) => {
                grant.restores += 1;
                Ok(Held {
                    grants: self.0.clone(),
                    datastore,
                })
            }
            _ => Err(Error::NotAuthorised(format!(
                "no restore from datastore {datastore} is granted (any more); \
                 pair again at the centre for a new one"
            ))),
        }
    }

    /// A restore over the bus from an unlocked datastore.
    pub(crate) fn hold(&self, store: Arc<Datastore>) -> Held {
        let datastore = store.id;
        let mut grants = locked(&self.0);
        let grant = grants.entry(datastore).or_default();
        grant.restores += 1;
        grant.store = Some(store);
        Held {
            grants: self.0.clone(),
            datastore,
        }
    }

    /// Locks what has run out; how long until the next runs out.
    pub(crate) fn expire(&self) -> Option<Duration> {
        let now = SystemTime::now();
        let mut grants = locked(&self.0);
        grants.retain(|_, grant| !grant.lock_if_over(now));
        let next = grants.values().filter_map(|g| g.until).min()?;
        Some(next.duration_since(now).unwrap_or_default())
    }

    /// Forgets all, because the pool is gone.
    pub(crate) fn clear(&self) {
        locked(&self.0).clear();
    }
}

impl Grant {
    fn lock_if_over(&mut self, now: SystemTime) -> bool {
        let over = self.restores == 0 && self.until.is_none_or(|until| until <= now);
        if over && let Some(store) = self.store.take() {
            tracing::info!(datastore = %store.id, "locked: no restore is granted any more");
            store.lock();
        }
        over
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut grants = locked(&self.grants);
        if let Some(grant) = grants.get_mut(&self.datastore) {
            grant.restores -= 1;
            if grant.lock_if_over(SystemTime::now()) {
                grants.remove(&self.datastore);
            }
        }
    }
}
