//! Packs that hold garbage give way to ones that hold none.

use super::Collected;
use crate::core::{PACKS, pack_name};
use crate::error::Result;
use crate::index::{Location, Move, Pack};
use crate::pack::OpenPack;
use crate::progress::Progress;
use crate::recover::records;
use crate::store::Store;
use format::Digest;
use format::frame::Frame;
use format::pack::Record;

/// A pack is written anew when one byte in so many is garbage. Less would copy much for little room.
const ONE_IN: u64 = 4;

/// What becomes of a pack.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    /// What is needed of it is copied first.
    Copied,
    Goes,
}

fn fate(pack: &Pack) -> Fate {
    match (pack.bytes, pack.dead) {
        (bytes, dead) if bytes == dead => Fate::Goes,
        (bytes, dead) if u64::from(dead) * ONE_IN >= u64::from(bytes) => Fate::Copied,
        _ => Fate::Stays,
    }
}

/// Adds up what becomes of a pack.
pub(super) fn plan(pack: &Pack, sum: &mut Collected) {
    let dead = u64::from(pack.dead);
    match fate(pack) {
        Fate::Stays => sum.left += dead,
        Fate::Copied | Fate::Goes => {
            sum.packs += 1;
            sum.copied += u64::from(pack.bytes) - dead;
            sum.freed += dead;
        }
    }
}

impl Store {
    /// Gives the space of garbage back to the file system.
    pub(super) fn rewrite(&self, progress: &Progress, sum: &mut Collected) -> Result<()> {
        let index = &self.core.index;
        let (mut going, mut copied) = (Vec::new(), Vec::new());
        for (number, pack) in index.packs_that(|_, pack| pack.dead > 0 || pack.bytes == 0)? {
            plan(&pack, sum);
            match fate(&pack) {
                Fate::Stays => {}
                Fate::Copied => copied.push((number, pack)),
                Fate::Goes => going.push((number, pack)),
            }
        }
        // first what takes no room
        self.replace(&going, None)?;
        // frames that refer to others stay apart from those that do not
        let mut lanes: [Vec<(u32, Pack, Vec<Record>)>; 2] = Default::default();
        for (number, pack) in copied {
            let name = pack_name(pack.id);
            let storage = &self.core.storage;
            let file = storage.open(&name).map_err(self.core.io("open", &name))?;
            match records(&*file, &name, &storage.place(), self.core.datastore)? {
                Some((listed, true)) => {
                    let refers = listed.first().is_some_and(|r| r.kind.has_refs());
                    lanes[usize::from(refers)].push((number, pack, listed));
                }
                _ => sum.findings.push(format!(
                    "{name} is damaged and keeps its garbage; run verify"
                )),
            }
        }
        for lane in lanes {
            let mut group = Vec::new();
            let mut out: Option<OpenPack> = None;
            for (number, pack, listed) in lane {
                if let Some(damaged) = self.copy_out(&pack, &listed, &mut out, progress)? {
                    let name = pack_name(pack.id);
                    sum.findings.push(format!(
                        "{name} keeps its garbage: its chunk {damaged} is damaged; run verify"
                    ));
                    continue;
                }
                group.push((number, pack));
                if let Some(full) = out.take_if(|out| out.is_full()) {
                    self.replace(&std::mem::take(&mut group), Some(full))?;
                }
            }
            self.replace(&group, out)?;
        }
        Ok(())
    }

    /// Copies what is needed of a pack, up to a chunk that is damaged.
    fn copy_out(
        &self,
        pack: &Pack,
        listed: &[Record],
        out: &mut Option<OpenPack>,
        progress: &Progress,
    ) -> Result<Option<Digest>> {
        let core = &self.core;
        for record in listed {
            progress.check()?;
            let here = |l: &Location| l.pack == pack.id && l.offset == record.offset;
            let Some(location) = core.index.find(&record.digest)?.filter(here) else {
                continue;
            };
            let raw = core.read_at(&location)?;
            let frame = Frame::parse(&raw, core.datastore).ok();
            let Some(frame) = frame.filter(|f| f.header.digest == record.digest) else {
                return Ok(Some(record.digest));
            };
            let out = match out {
                Some(out) => out,
                None => out.insert(OpenPack::begin(core)?),
            };
            out.append(&frame.header, &raw)?;
            progress.add_bytes(record.length.into());
        }
        Ok(None)
    }

    /// Removes packs, what is needed of them being in another one.
    fn replace(&self, packs: &[(u32, Pack)], by: Option<OpenPack>) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        let core = &self.core;
        let sealed = by.map(OpenPack::seal).transpose()?;
        let from: Vec<u32> = packs.iter().map(|(number, _)| *number).collect();
        let to = sealed.as_ref();
        core.index.relocate(&Move {
            from: &from,
            to: to.map(|(id, records): &(_, Vec<Record>)| (*id, &records[..])),
        })?;
        for (_, pack) in packs {
            let name = pack_name(pack.id);
            core.close_pack(pack.id);
            core.storage
                .remove(&name)
                .map_err(core.io("remove", &name))?;
        }
        core.storage.sync_dir(PACKS).map_err(core.io("sync", PACKS))
    }
}
