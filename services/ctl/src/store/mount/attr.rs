//! What stat(2) tells.

use super::tree::{Answer, Item, Tree};
use engine::Seen;
use format::entry::{Kind, Timestamp};
use fuser::{Errno, FileAttr, FileType, INodeNo};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

/// Snapshots of which it is remembered which files have several names.
const KEPT: usize = 4;

/// By snapshot, the numbers of files that have further names, and how many.
#[derive(Default)]
pub(super) struct Names(Mutex<VecDeque<(usize, OfSnapshot)>>);

type OfSnapshot = Arc<OnceLock<Vec<(u64, u32)>>>;

impl Names {
    fn of(&self, snapshot: usize) -> OfSnapshot {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, names)) = kept.iter().find(|(at, _)| *at == snapshot) {
            return names.clone();
        }
        let names = OfSnapshot::default();
        kept.push_front((snapshot, names.clone()));
        kept.truncate(KEPT);
        names
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    let time = whole.and_then(|t| t.checked_add(Duration::from_nanos(time.nanos.into())));
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Item {
    /// What all have, and of what is no entry there is no more.
    pub(super) fn attr(&self, time: SystemTime) -> FileAttr {
        let kind = self.kind();
        let perm = match kind {
            FileType::Symlink => 0o777,
            _ => 0o555,
        };
        FileAttr {
            ino: INodeNo(self.ino()),
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 64 << 10,
            flags: 0,
        }
    }
}

impl Tree {
    pub(super) fn attr(&self, ino: u64) -> Answer<FileAttr> {
        self.attr_of(&self.item(ino)?)
    }

    pub(super) fn attr_of(&self, item: &Item) -> Answer<FileAttr> {
        let newest = |group: usize| self.groups[group].snapshots.first().copied();
        let snapshot = match item {
            Item::Top | Item::Ids => Some(0),
            Item::Group(group) | Item::Latest(group) => newest(*group),
            Item::Id(at) | Item::Way(at, ..) | Item::Entry(at, _) => Some(*at),
            Item::Lost(_) => return Err(Errno::EIO),
        };
        let shown = snapshot.and_then(|at| self.shown.get(at));
        let time = match item {
            Item::Entry(_, seen) => seen.entry().modified,
            _ => shown.map_or_else(Timestamp::default, |s| s.snapshot.clear.time),
        };
        let mut attr = item.attr(system_time(time));
        match item {
            Item::Latest(_) | Item::Id(_) => attr.size = self.target(item)?.len() as u64,
            Item::Entry(snapshot, seen) => self.fill(&mut attr, *snapshot, seen)?,
            _ => {}
        }
        Ok(attr)
    }

    fn fill(&self, attr: &mut FileAttr, snapshot: usize, seen: &Seen) -> Answer<()> {
        let (entry, view) = (seen.entry(), &self.shown[snapshot].view);
        attr.perm = entry.mode as u16 & 0o7777;
        (attr.uid, attr.gid) = (entry.uid, entry.gid);
        match &entry.kind {
            Kind::File => {
                // the kernel takes no larger one
                attr.size = entry.size.min(i64::MAX as u64);
                let data = view.data_in(seen);
                let data = data.map_err(self.failed(snapshot, &entry.path))?;
                attr.blocks = data.div_ceil(512);
            }
            Kind::Symlink(target) => attr.size = target.len() as u64,
            Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                attr.rdev = minor & 0xff | (major & 0xfff) << 8 | (minor & 0xfff00) << 12;
            }
            // one that leads somewhere is that
            Kind::HardLink(_) => return Err(Errno::EIO),
            Kind::Directory => return Ok(()),
            Kind::Fifo | Kind::Socket => {}
        }
        // the first who asks of a snapshot waits until all of it was read
        let names = self.names.of(snapshot);
        let names = names.get_or_init(|| {
            let found = view.further_names();
            found
                .map_err(self.failed(snapshot, b""))
                .unwrap_or_default()
        });
        if let Ok(at) = names.binary_search_by_key(&seen.number(), |(number, _)| *number) {
            attr.nlink = names[at].1.saturating_add(1);
        }
        Ok(())
    }
}
