//! At a centre: which agent may read which datastore until when, with the keys keyd released for
//! that.
//!
//! A datastore is unlocked while a grant runs or a restore goes on, and locked when the last of
//! them has ended. Unlocked for one agent it is not open to those that were granted it before.

use crate::store::Datastore;
use contract::Error;
use format::DatastoreId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

#[derive(Default)]
struct Grant {
    /// By agent.
    until: HashMap<String, SystemTime>,
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
    /// Lets an agent paired for it read an unlocked datastore until then.
    pub(crate) fn grant(&self, store: Arc<Datastore>, agent: &str, until: SystemTime) {
        let mut grants = locked(&self.0);
        let grant = grants.entry(store.id).or_default();
        grant.until.insert(agent.to_owned(), until);
        grant.store = Some(store);
    }

    /// A restore for an agent, by the grant of its own that runs.
    pub(crate) fn held(&self, datastore: DatastoreId, agent: &str) -> Result<Held, Error> {
        let now = SystemTime::now();
        let mut grants = locked(&self.0);
        match grants.get_mut(&datastore) {
            Some(grant) if grant.until.get(agent).is_some_and(|until| *until > now) => {
                grant.restores += 1;
                Ok(Held {
                    grants: self.0.clone(),
                    datastore,
                })
            }
            _ => Err(Error::NotAuthorised(format!(
                "no restore from datastore {datastore} is granted to this agent (any more); \
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
        let next = grants.values().flat_map(|g| g.until.values()).min()?;
        Some(next.duration_since(now).unwrap_or_default())
    }

    /// Forgets all, because the pool is gone.
    pub(crate) fn clear(&self) {
        locked(&self.0).clear();
    }
}

impl Grant {
    fn lock_if_over(&mut self, now: SystemTime) -> bool {
        self.until.retain(|_, until| *until > now);
        let over = self.restores == 0 && self.until.is_empty();
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

#[cfg(test)]
mod tests {
    use super::*;
    use engine::Store;
    use format::Keyset;
    use format::superblock::Profile;
    use std::collections::BTreeMap;
    use zeroize::Zeroizing;

    #[test]
    fn a_grant_is_one_agents_and_ends_with_its_time() {
        let keyset = Keyset {
            datastore_id: DatastoreId([1; 16]),
            dedup: Zeroizing::new([2; 32]),
            epochs: BTreeMap::from([(1, Zeroizing::new([3; 32]))]),
        };
        let id = keyset.datastore_id;
        let pool = tempfile::tempdir().unwrap();
        let file = Store::superblock_for(&keyset, Profile::Site).encode();
        Datastore::make_replica(pool.path(), id, &file).unwrap();
        let store = Arc::new(
            Datastore::open_replica(pool.path(), id, engine::Memory::new(1 << 20)).unwrap(),
        );
        let unlocked = || {
            store.unlock(&keyset).unwrap();
            store.clone()
        };
        let hour = Duration::from_secs(3600);
        let (now, grants) = (SystemTime::now(), Grants::default());

        grants.grant(unlocked(), "earlier", now - hour);
        grants.grant(unlocked(), "new", now + hour);
        assert!(grants.held(id, "earlier").is_err());
        assert!(grants.held(id, "another").is_err());
        let held = grants.held(id, "new").ok().unwrap();
        // another's grant takes nothing from it
        grants.grant(unlocked(), "newer", now + 2 * hour);
        assert!(grants.held(id, "new").is_ok());
        let next = grants.expire().unwrap();
        assert!(next > Duration::ZERO && next <= hour, "{next:?}");

        // a restore outlasts its grant, and what has run out is no reason to look again
        grants.grant(unlocked(), "new", now);
        grants.grant(unlocked(), "newer", now);
        assert_eq!(grants.expire(), None);
        assert!(locked(&grants.0).contains_key(&id));
        assert!(grants.held(id, "new").is_err());
        drop(held);
        assert!(locked(&grants.0).is_empty());
    }
}
