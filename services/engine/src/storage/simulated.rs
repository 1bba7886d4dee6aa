//! A file system in memory that loses power, fills up and fails, for tests.
//!
//! What it may leave behind after a power cut is as much as POSIX allows: of writes that were not
//! synced each may be there, absent, or there in part; names made, changed or removed since the
//! directory's last sync may each be durable or not; a rename between directories may survive in
//! both, in one, or in neither. A file's sync that fails loses what it was to bring to the disk, as
//! Linux does: the file still reads as it was written, and a later sync makes up for nothing.

use super::{File, Guard, Storage};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Part of a file that reaches the disk on its own, bytes.
const SECTOR: usize = 512;

type Inode = u64;

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Since the last sync, oldest first.
    unsynced: Vec<Change>,
}

#[derive(Clone)]
struct Naming {
    dir: String,
    name: String,
    inode: Option<Inode>,
}

#[derive(Clone, Default)]
struct State {
    files: BTreeMap<Inode, Content>,
    live: BTreeMap<String, Inode>,
    durable: BTreeMap<String, Inode>,
    unsynced: Vec<Naming>,
    next: Inode,
    calls: u64,
    reads: u64,
    fault: Option<Fault>,
    capacity: Option<u64>,
    locked: bool,
}

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// From this call on (counted from 0) everything fails: the power is off.
    PowerCut(u64),
    /// This one call fails with an I/O error.
    Error(u64),
    /// This one call fails with an I/O error; a write puts half of its bytes down before.
    Short(u64),
    /// The disk is full at this call, which fails; a write puts half of its bytes down before. From
    /// then on everything fails that takes more room.
    Full(u64),
    /// This one reading call ([`Simulated::reads`]) fails with an I/O error.
    Read(u64),
}

/// The file system; clones share it.
#[derive(Clone, Default)]
pub struct Simulated {
    state: Arc<Mutex<State>>,
}

impl Simulated {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls that change or sync something, so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Calls that read, look for or list something, so far.
    pub fn reads(&self) -> u64 {
        self.state().reads
    }

    /// Sets what goes wrong; `None` for nothing.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// Sets how many bytes all files may have together; `None` for any number.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.state().capacity = capacity;
    }

    /// Bytes of all files that have a name.
    pub fn used(&self) -> u64 {
        let state = self.state();
        state
            .live
            .values()
            .map(|i| state.files[i].live.len() as u64)
            .sum()
    }

    /// Names of all files.
    pub fn names(&self) -> Vec<String> {
        self.state().live.keys().cloned().collect()
    }

    /// The bytes of a file.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.live.get(name).map(|i| state.files[i].live.clone())
    }

    /// Changes a file behind everybody's back, durably.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        if let Some(inode) = state.live.get(name).copied()
            && let Some(content) = state.files.get_mut(&inode)
        {
            change(&mut content.live);
            content.durable = content.live.clone();
            content.unsynced.clear();
        }
    }

    /// What the disk may hold once the power is back: `choice` picks among the possibilities. 0
    /// leaves nothing that was not synced, `u64::MAX` everything.
    pub fn after_power_cut(&self, choice: u64) -> Self {
        let mut state = self.state().clone();
        let mut dice = Dice {
            state: choice ^ 0x9e37_79b9_7f4a_7c15,
            choice,
        };
        for naming in std::mem::take(&mut state.unsynced) {
            if dice.yes() {
                apply(&mut state.durable, &naming);
            }
        }
        for content in state.files.values_mut() {
            for change in std::mem::take(&mut content.unsynced) {
                match &change {
                    Change::Length(_) if dice.yes() => change.apply(&mut content.durable),
                    Change::Length(_) => {}
                    Change::Write(offset, bytes) => {
                        dice.tear(&mut content.durable, *offset as usize, bytes);
                    }
                }
            }
            content.live.clone_from(&content.durable);
        }
        state.live.clone_from(&state.durable);
        let named: Vec<Inode> = state.live.values().copied().collect();
        state.files.retain(|inode, _| named.contains(inode));
        (state.calls, state.reads) = (0, 0);
        (state.fault, state.locked) = (None, false);
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }
}

struct Dice {
    state: u64,
    choice: u64,
}

impl Dice {
    fn roll(&mut self) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.state ^ (self.state >> 29)) >> 8
    }

    fn yes(&mut self) -> bool {
        match self.choice {
            0 => false,
            u64::MAX => true,
            _ => self.roll().is_multiple_of(2),
        }
    }

    /// Writes all, nothing, or any sectors of `bytes`.
    fn tear(&mut self, file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
        let whole = self.yes();
        let torn = !whole && self.yes();
        for (i, sector) in bytes.chunks(SECTOR).enumerate() {
            if whole || (torn && self.yes()) {
                put(file, offset + i * SECTOR, sector);
            }
        }
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Change::Write(offset, bytes) => put(file, *offset as usize, bytes),
            Change::Length(length) => file.resize(*length as usize, 0),
        }
    }
}

fn apply(names: &mut BTreeMap<String, Inode>, naming: &Naming) {
    match naming.inode {
        Some(inode) => names.insert(naming.name.clone(), inode),
        None => names.remove(&naming.name),
    };
}

fn failed() -> io::Error {
    io::Error::other("the disk failed")
}

fn dir_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl State {
    /// Counts a call and lets it fail if it is to.
    fn step(&mut self) -> io::Result<()> {
        let call = self.calls;
        self.calls += 1;
        match self.fault {
            Some(Fault::PowerCut(at)) if call >= at => Err(io::Error::other("the power is off")),
            Some(Fault::Error(at) | Fault::Short(at)) if call == at => Err(failed()),
            Some(Fault::Full(at)) if call == at => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    /// Counts a reading call and lets it fail if it is to.
    fn look(&mut self) -> io::Result<()> {
        let read = self.reads;
        self.reads += 1;
        match self.fault {
            Some(Fault::Read(at)) if read == at => Err(failed()),
            _ => self.alive(),
        }
    }

    fn alive(&self) -> io::Result<()> {
        match self.fault {
            Some(Fault::PowerCut(at)) if self.calls > at => {
                Err(io::Error::other("the power is off"))
            }
            _ => Ok(()),
        }
    }

    fn room(&self) -> io::Result<()> {
        match self.fault {
            Some(Fault::Full(at)) if self.calls > at => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn name(&mut self, name: &str, inode: Option<Inode>) {
        let naming = Naming {
            dir: dir_of(name).into(),
            name: name.into(),
            inode,
        };
        apply(&mut self.live, &naming);
        self.unsynced.push(naming);
    }

    fn grow(&self, inode: Inode, length: u64) -> io::Result<()> {
        let now = self.files[&inode].live.len() as u64;
        if length > now {
            self.room()?;
        }
        let Some(capacity) = self.capacity else {
            return Ok(());
        };
        let used: u64 = self
            .live
            .values()
            .map(|i| self.files[i].live.len() as u64)
            .sum();
        if used + length.saturating_sub(now) > capacity {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }
}

impl Storage for Simulated {
    fn place(&self) -> String {
        "the simulated disk".into()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.step()?;
        state.room()?;
        if state.live.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.next;
        state.next += 1;
        state.files.insert(inode, Content::default());
        state.name(name, Some(inode));
        Ok(Arc::new(Open {
            disk: self.clone(),
            inode,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.look()?;
        let inode = *state.live.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Open {
            disk: self.clone(),
            inode,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let inode = *state.live.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.name(to, Some(inode));
        state.name(from, None);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        if !state.live.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.name(name, None);
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.look()?;
        let mut names: Vec<String> = state
            .live
            .keys()
            .filter_map(|name| match dir {
                "" => name.split('/').next(),
                _ => name.strip_prefix(dir)?.strip_prefix('/')?.split('/').next(),
            })
            .map(str::to_owned)
            .collect();
        names.dedup();
        Ok(names)
    }

    fn make_dir(&self, _dir: &str) -> io::Result<()> {
        // directories come with the files in them
        self.state().alive()
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let (synced, rest) = std::mem::take(&mut state.unsynced)
            .into_iter()
            .partition(|n| n.dir == dir);
        state.unsynced = rest;
        let synced: Vec<Naming> = synced;
        synced
            .iter()
            .for_each(|naming| apply(&mut state.durable, naming));
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Guard>> {
        let mut state = self.state();
        if state.locked {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "process 1"));
        }
        state.locked = true;
        Ok(Box::new(Held(self.clone())))
    }
}

struct Held(Simulated);

impl Guard for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

struct Open {
    disk: Simulated,
    inode: Inode,
}

impl Open {
    fn change(&self, length: u64, mut change: Change) -> io::Result<()> {
        let mut state = self.disk.state();
        let in_part =
            matches!(state.fault, Some(Fault::Short(at) | Fault::Full(at)) if at == state.calls);
        let allowed = state.step();
        match (&allowed, &mut change) {
            (Err(_), Change::Write(_, bytes)) if in_part => bytes.truncate(bytes.len() / 2),
            (Err(_), _) => return allowed,
            (Ok(()), _) => state.grow(self.inode, length)?,
        }
        let content = state
            .files
            .get_mut(&self.inode)
            .ok_or(io::ErrorKind::NotFound)?;
        change.apply(&mut content.live);
        content.unsynced.push(change);
        allowed
    }
}

impl File for Open {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.look()?;
        let live = &state.files[&self.inode].live;
        let rest = live.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(
            offset + bytes.len() as u64,
            Change::Write(offset, bytes.to_vec()),
        )
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.look()?;
        Ok(state.files[&self.inode].live.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(length, Change::Length(length))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let synced = state.step();
        // without power nothing was tried, and the disk may have any of it
        state.alive()?;
        let content = state
            .files
            .get_mut(&self.inode)
            .ok_or(io::ErrorKind::NotFound)?;
        for change in std::mem::take(&mut content.unsynced) {
            if synced.is_ok() {
                change.apply(&mut content.durable);
            }
        }
        synced
    }
}
