//! Removing snapshots, and locks that keep them from it. Their chunks go with the next collection.

use crate::clock;
use crate::core::{Core, SNAPSHOTS, locked};
use crate::error::{Error, Result, format_error};
use crate::read::snapshot_name;
use crate::retention::{Keep, Verdict, decide};
use crate::store::Store;
use format::entry::Timestamp;
use format::lock::{Clock, LOCK_LEN, Lock};
use format::{Digest, GroupId, SnapshotId};
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::io;
use std::sync::MutexGuard;

/// The file of the datastore's clock.
const CLOCK: &str = "clock";

/// Longest lock, seconds: what lies further off is a slip of the keyboard.
const LONGEST: i64 = 100 * 366 * 86_400;

fn lock_name(id: SnapshotId) -> String {
    format!("{id}.lock")
}

/// Until when snapshots are locked, by the datastore's clock.
pub(crate) struct Locks {
    now: i64,
    /// One whose lock is damaged is locked for ever.
    until: BTreeMap<SnapshotId, i64>,
    /// What their locks say is their root.
    roots: BTreeMap<SnapshotId, Digest>,
}

impl Locks {
    /// Those that are locked, with their roots where their locks say them.
    pub(crate) fn pending(&self) -> impl Iterator<Item = (SnapshotId, Option<Digest>)> {
        let pending = self.until.iter().filter(|(_, until)| **until > self.now);
        pending.map(|(id, _)| (*id, self.roots.get(id).copied()))
    }

    /// Until when it is locked, if it is.
    pub(crate) fn of(&self, id: SnapshotId) -> Option<i64> {
        self.until
            .get(&id)
            .copied()
            .filter(|until| *until > self.now)
    }

    /// Refuses one that is locked.
    pub(crate) fn check(&self, id: SnapshotId) -> Result<()> {
        match self.of(id) {
            Some(i64::MAX) => Err(Error::DamagedLock { id }),
            Some(until) => Err(Error::LockedSnapshot { id, until }),
            None => Ok(()),
        }
    }
}

impl Core {
    /// All locks. Moves the datastore's clock on.
    pub(crate) fn locks(&self) -> Result<Locks> {
        self.locks_of(&locked(&self.locking))
    }

    /// As [`Core::locks`]; they stay as they are while this is held.
    fn locks_of(&self, _alone: &MutexGuard<'_, ()>) -> Result<Locks> {
        let (mut until, mut roots) = (BTreeMap::new(), BTreeMap::new());
        let mut made = None;
        let listed = self.storage.list(SNAPSHOTS);
        for name in listed.map_err(self.io("list", SNAPSHOTS))? {
            if let Some(Ok(id)) = name.strip_suffix(".snap").map(str::parse) {
                // one that cannot be read is locked by its lock's file only
                let locked = self.snapshot(id).map_or(0, |s| s.clear.lock_until);
                let longest: &mut i64 = until.entry(id).or_default();
                *longest = locked.max(*longest);
            } else if let Some(Ok(id)) = name.strip_suffix(".lock").map(str::parse) {
                let lock = self.lock_file(id)?;
                made = made.max(lock.map(|lock| lock.made));
                roots.extend(lock.map(|lock| (id, lock.root)));
                let longest = until.entry(id).or_default();
                *longest = lock.map_or(i64::MAX, |lock| lock.until).max(*longest);
            }
        }
        let saved = self.small_file(CLOCK)?.and_then(|b| Clock::parse(&b).ok());
        let saved = saved.filter(|clock| clock.datastore == self.datastore);
        let reading = self.options.clock.read();
        let now = clock::now(saved.as_ref(), made, until.values().copied(), &reading);
        let locks = Locks { now, until, roots };
        if locks.until.values().any(|until| *until > now) {
            let done = self.save_clock(now);
            // where it goes by what was saved, they only hold longer without
            if saved.is_none() && made.is_none() {
                done?;
            }
        }
        Ok(locks)
    }

    /// Removes a snapshot whose name failed to become durable, as far as the disk lets.
    pub(crate) fn take_back(&self, id: SnapshotId) {
        let alone = locked(&self.locking);
        // one that was found meanwhile, and locked, stays
        if self
            .locks_of(&alone)
            .is_ok_and(|locks| locks.of(id).is_none())
        {
            let name = format!("{SNAPSHOTS}/{}", snapshot_name(id));
            let removed = self.storage.remove(&name);
            // best effort: its disk has just failed
            let _ = removed.and_then(|()| self.storage.sync_dir(SNAPSHOTS));
        }
    }

    fn save_clock(&self, now: i64) -> Result<()> {
        let clock = clock::saved(self.datastore, now, &self.options.clock.read());
        self.write_whole("", CLOCK, &clock.encode())
    }

    /// A file of a lock's or the clock's size; `None` where there is none.
    fn small_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let file = match self.storage.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(self.io("open", name))?,
        };
        let mut bytes = vec![0; LOCK_LEN + 1];
        let length = file.read_at(&mut bytes, 0).map_err(self.io("read", name))?;
        bytes.truncate(length);
        Ok(Some(bytes))
    }

    /// The lock's file of a snapshot that has one; `None` for one that is damaged.
    fn lock_file(&self, id: SnapshotId) -> Result<Option<Lock>> {
        let name = format!("{SNAPSHOTS}/{}", lock_name(id));
        let bytes = self.small_file(&name)?.unwrap_or_default();
        let lock = match Lock::parse(&bytes) {
            Err(version @ format::FormatError::Version { .. }) => {
                return Err(format_error(name)(version));
            }
            lock => lock.ok(),
        };
        Ok(lock.filter(|lock| lock.datastore == self.datastore && lock.snapshot == id))
    }

    /// A sentence for each lock, and for the clock they go by, that is damaged.
    pub(crate) fn damaged_locks(&self) -> Result<Vec<String>> {
        let listed = self.storage.list(SNAPSHOTS);
        let mut found = Vec::new();
        for name in listed.map_err(self.io("list", SNAPSHOTS))? {
            let Some(Ok(id)) = name.strip_suffix(".lock").map(str::parse) else {
                continue;
            };
            found.extend(match self.lock_file(id) {
                Ok(Some(_)) => None,
                Ok(None) => Some(Error::DamagedLock { id }.to_string()),
                Err(error) => Some(error.to_string()),
            });
        }
        let clock = self.small_file(CLOCK)?.map(|bytes| Clock::parse(&bytes));
        let ours = |clock: &Clock| clock.datastore == self.datastore;
        if clock.is_some_and(|clock| !clock.as_ref().is_ok_and(ours)) {
            found.push(format!(
                "{CLOCK}: it is damaged, so locks go by the latest time they say themselves; the next lock makes it anew"
            ));
        }
        Ok(found)
    }
}

impl Store {
    /// Until when snapshots are locked, those that are.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn locks(&self) -> Result<BTreeMap<SnapshotId, i64>> {
        let locks = self.core.locks()?;
        let pending = locks
            .pending()
            .filter_map(|(id, _)| Some((id, locks.of(id)?)));
        Ok(pending.collect())
    }

    /// Locks a snapshot until a time, seconds since the Unix epoch: nothing of ours removes it or its
    /// chunks before that, by a clock that jumps of the wall clock do not move.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], [`Error::NotLater`]; an I/O failure.
    pub fn lock_snapshot(&self, id: SnapshotId, until: i64) -> Result<()> {
        let core = &self.core;
        let alone = locked(&core.locking);
        let root = core.snapshot(id)?.clear.root;
        let locks = core.locks_of(&alone)?;
        // a damaged one is made anew
        let before = locks.of(id).filter(|until| *until < i64::MAX);
        let before = before.unwrap_or(locks.now);
        if until < before || until == locks.now || until - locks.now > LONGEST {
            return Err(Error::NotLater { id, before });
        }
        // first the clock: a lock without one would begin it anew
        core.save_clock(locks.now)?;
        let lock = Lock {
            datastore: core.datastore,
            snapshot: id,
            until,
            made: locks.now,
            root,
        };
        core.write_whole(SNAPSHOTS, &lock_name(id), &lock.encode())
    }

    /// Removes snapshots, all or, where one may not be removed, none. Durable on return; their chunks
    /// go with the next [`Store::collect`].
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], [`Error::LockedSnapshot`]; an I/O failure.
    pub fn forget(&self, ids: &[SnapshotId]) -> Result<()> {
        let core = &self.core;
        let alone = locked(&core.locking);
        let locks = core.locks_of(&alone)?;
        let there = core.snapshot_ids()?;
        for id in ids {
            if !there.contains(id) {
                return Err(Error::NoSnapshot { id: *id });
            }
            locks.check(*id)?;
        }
        // a lock that is over goes last: without it the snapshot would be as good as not locked
        for name in [snapshot_name, lock_name] {
            for id in ids {
                let name = format!("{SNAPSHOTS}/{}", name(*id));
                match core.storage.remove(&name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed.map_err(core.io("remove", &name))?,
                }
            }
            core.storage
                .sync_dir(SNAPSHOTS)
                .map_err(core.io("sync", SNAPSHOTS))?;
        }
        Ok(())
    }

    /// What these rules say of each snapshot, in the order of [`Store::snapshots`]. Each group is
    /// looked at by itself; what is locked is kept, and what cannot be read is not looked at.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn retention(
        &self,
        keep: &Keep,
        zone: &TimeZone,
    ) -> Result<Vec<(crate::SnapshotInfo, Verdict)>> {
        let locks = self.core.locks()?;
        let (snapshots, _) = self.snapshots()?;
        let mut groups: BTreeMap<GroupId, Vec<(SnapshotId, Timestamp)>> = BTreeMap::new();
        for info in &snapshots {
            let group = groups.entry(info.clear.group).or_default();
            group.push((info.clear.id, info.clear.time));
        }
        let mut verdicts = BTreeMap::new();
        for group in groups.values() {
            verdicts.extend(decide(group, keep, zone));
        }
        let mut judged = Vec::new();
        for info in snapshots {
            let mut verdict: Verdict = verdicts.remove(&info.clear.id).unwrap_or_default();
            verdict.extend(locks.of(info.clear.id).map(|_| "locked"));
            judged.push((info, verdict));
        }
        Ok(judged)
    }
}
