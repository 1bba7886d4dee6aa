//! Packs that hold garbage give way to ones that hold none, and many short ones to one.

use super::Collected;
use crate::core::{PACKS, locked, pack_name};
use crate::error::{Error, Result, unless_full};
use crate::index::{Location, Move, Pack};
use crate::pack::{MOST_FRAMES, MOST_REFERENCES, OpenPack};
use crate::progress::Progress;
use crate::storage::read_exact;
use crate::store::Store;
use format::frame::{self, Frame, Header};
use format::pack::{HEADER_LEN, Record};
use format::{Digest, PackId};
use std::collections::BTreeMap;
use std::io;

/// A pack is written anew when one byte in so many is garbage. Less would copy much for little room.
const ONE_IN: u64 = 4;

/// So many packs that are settled and of about a length become one, if they are shorter than this share
/// of a full one.
const MANY: u32 = 16;

/// Bytes of a short pack at the most. One that was closed for the number of its frames or references is
/// longer: it would become the same again, each time.
const SHORT: u32 = 1 << 20;
const _: () = assert!(MOST_FRAMES * frame::OVERHEAD >= SHORT as usize);
const _: () = assert!(MOST_REFERENCES * size_of::<Digest>() as u64 >= SHORT as u64);

/// Packs with their numbers.
type Packs = Vec<(u32, Pack)>;

/// A pack that is being written, and those whose frames it takes.
type Lane = (Option<OpenPack>, Packs);

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

/// What becomes of packs.
#[derive(Default)]
pub(super) struct Plan {
    /// What holds nothing that is needed.
    pub(super) going: Packs,
    /// What holds so much garbage that the rest is copied.
    pub(super) copied: Packs,
    /// What is short where there are many of about a length. They become one that is too long to be one
    /// of them again, so a byte is copied a few times at most until its pack is no longer short.
    pub(super) short: Packs,
}

impl Collected {
    /// Counts packs that are given up.
    pub(super) fn add(&mut self, packs: &[(u32, Pack)]) {
        for (_, pack) in packs {
            let dead = u64::from(pack.dead);
            self.packs += 1;
            self.copied += u64::from(pack.bytes) - dead;
            self.freed += dead;
            self.left -= dead;
        }
    }
}

impl Store {
    pub(super) fn plan(&self, packs: Packs) -> Plan {
        let mut plan = Plan::default();
        let mut short: BTreeMap<_, Packs> = BTreeMap::new();
        for (number, pack) in packs {
            match fate(&pack) {
                Fate::Goes => plan.going.push((number, pack)),
                Fate::Copied => plan.copied.push((number, pack)),
                Fate::Stays if pack.settled && self.is_short(&pack) => {
                    if let Some(refers) = self.refers(pack.id) {
                        let length = pack.bytes.ilog2() / MANY.ilog2();
                        let alike = short.entry((refers, length)).or_default();
                        alike.push((number, pack));
                    }
                }
                Fate::Stays => {}
            }
        }
        let many = |alike: &Packs| alike.len() >= MANY as usize;
        plan.short = short.into_values().filter(many).flatten().collect();
        plan
    }

    fn is_short(&self, pack: &Pack) -> bool {
        pack.bytes < SHORT.min(self.core.options.pack_size / MANY)
    }

    /// Whether the frames of a pack refer to others; `None` where it cannot be told.
    fn refers(&self, pack: PackId) -> Option<bool> {
        let file = self.core.storage.open(&pack_name(pack)).ok()?;
        let first = read_exact(&*file, HEADER_LEN as u64, frame::HEADER_LEN).ok()?;
        Header::parse(&first).ok().map(|h| h.kind.has_refs())
    }

    /// Gives the space of garbage back to the file system.
    pub(super) fn rewrite(&self, progress: &Progress, sum: &mut Collected) -> Result<()> {
        let index = &self.core.index;
        let opening = index.opening();
        let packs =
            index.packs_that(|_, pack| pack.dead > 0 || pack.bytes == 0 || self.is_short(pack))?;
        sum.left = packs.iter().map(|(_, pack)| u64::from(pack.dead)).sum();
        let Plan {
            mut going,
            copied,
            short,
        } = self.plan(packs);
        // of one without frames in the index nobody counted them: it was damaged when this was made
        going.retain(|(_, pack)| {
            let goes = pack.bytes > 0 || self.is_empty(pack.id);
            if !goes {
                sum.findings.push(format!(
                    "{} has frames that the index lacks and stays as it is; run recover",
                    pack_name(pack.id)
                ));
            }
            goes
        });
        // first what takes no room
        self.replace(&going, None, opening)?;
        sum.add(&going);
        let stay = self.renew(&copied, opening, progress)?;
        sum.add(&copied);
        let shortened = self.renew(&short, opening, progress);
        let stay_short = match shortened {
            // they are as good as one, and take the same room
            Err(Error::Full { .. }) => Vec::new(),
            renewed => {
                sum.add(&short);
                renewed?
            }
        };
        for (pack, chunk) in stay.into_iter().chain(stay_short) {
            sum.findings.push(format!(
                "{} stays as it is: its chunk {chunk} is damaged; run verify",
                pack_name(pack)
            ));
        }
        Ok(())
    }

    /// Whether no frame is found in a pack; in one that cannot be read there may be some.
    fn is_empty(&self, pack: PackId) -> bool {
        let found = self.core.records_of(pack);
        matches!(found, Ok(Some((frames, _))) if frames.is_empty())
    }

    /// Copies what is needed of packs to new ones, and removes them. Answers those that stay, for a
    /// chunk that is needed of them is damaged. Who calls it holds `collecting`: a pack goes once. The packs
    /// are of this opening of the index.
    pub(crate) fn renew(
        &self,
        packs: &[(u32, Pack)],
        opening: u64,
        progress: &Progress,
    ) -> Result<Vec<(PackId, Digest)>> {
        let mut stay = Vec::new();
        // frames that refer to others stay apart from those that do not
        let mut lanes: [Lane; 2] = Default::default();
        for (number, pack) in packs {
            let (frames, _) = self.frames_of(pack.id)?;
            let refers = frames.first().is_some_and(|(_, l)| l.kind.has_refs());
            let (out, group) = &mut lanes[usize::from(refers)];
            if let Some(damaged) = self.copy_out(pack, &frames, out, progress)? {
                stay.push((pack.id, damaged));
                continue;
            }
            group.push((*number, *pack));
            if let Some(full) = out.take_if(|out| out.is_full()) {
                self.replace(&std::mem::take(group), Some(full), opening)?;
            }
        }
        for (out, group) in lanes {
            self.replace(&group, out, opening)?;
        }
        Ok(stay)
    }

    /// Copies what is needed of a pack, up to a chunk that is damaged.
    fn copy_out(
        &self,
        pack: &Pack,
        frames: &[(Digest, Location)],
        out: &mut Option<OpenPack>,
        progress: &Progress,
    ) -> Result<Option<Digest>> {
        let core = &self.core;
        for (digest, place) in frames {
            progress.check()?;
            let here = |l: &Location| l.pack == pack.id && l.offset == place.offset;
            let Some(location) = core.index.find(digest)?.filter(here) else {
                continue;
            };
            // what cannot be read is as damaged as what is wrong
            let raw = core.read_at(&location).unwrap_or_default();
            let frame = Frame::parse(&raw, core.datastore).ok();
            let Some(frame) = frame.filter(|f| f.header.digest == *digest) else {
                return Ok(Some(*digest));
            };
            let out = match out {
                Some(out) => out,
                None => out.insert(OpenPack::begin(core)?),
            };
            out.append(&frame.header, &raw)?;
            progress.add_bytes(location.length.into());
        }
        Ok(None)
    }

    /// Removes packs, what is needed of them being in another one.
    fn replace(&self, packs: &[(u32, Pack)], by: Option<OpenPack>, opening: u64) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        let core = &self.core;
        let sealed = by.map(OpenPack::seal).transpose()?;
        // opened again it has other numbers for packs, and knows of what is dead what was durable
        let _ingest = locked(&self.ingest);
        if core.index.opening() != opening {
            return Err(Error::Reopened {
                place: core.storage.place(),
            });
        }
        let from: Vec<u32> = packs.iter().map(|(number, _)| *number).collect();
        let to = sealed.as_ref();
        core.index.relocate(&Move {
            from: &from,
            to: to.map(|(id, records): &(_, Vec<Record>)| (*id, &records[..])),
        })?;
        self.remove(packs)
    }

    /// Packs that hold garbage alone.
    fn of_no_use(&self) -> Result<Packs> {
        let index = &self.core.index;
        index.packs_that(|_, pack| pack.bytes > 0 && pack.dead == pack.bytes)
    }

    fn remove(&self, packs: &[(u32, Pack)]) -> Result<()> {
        let core = &self.core;
        for (_, pack) in packs {
            let name = pack_name(pack.id);
            core.close_pack(pack.id);
            match core.storage.remove(&name) {
                // by one that failed before it was told
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(core.io("remove", &name))?,
            }
        }
        core.storage.sync_dir(PACKS).map_err(core.io("sync", PACKS))
    }

    /// Where a full disk took no burial: packs that hold garbage alone go before the index says so, which
    /// is then written. If power fails in between, it is made anew. Says whether the burial still stood.
    pub(super) fn make_room(&self, opening: u64, sum: &mut Collected) -> Result<bool> {
        let index = &self.core.index;
        index.stop_merging();
        // nobody opens the index again meanwhile, which brings back what is not buried durably
        let mut ingest = locked(&self.ingest);
        if index.opening() != opening {
            return Ok(false);
        }
        let going = self.of_no_use()?;
        if going.is_empty() {
            let place = self.core.storage.place();
            return Err(Error::Full { place });
        }
        self.remove(&going)?;
        let from: Vec<u32> = going.iter().map(|(number, _)| *number).collect();
        let to = None;
        let written = index.relocate(&Move { from: &from, to });
        sum.left += going.iter().map(|(_, p)| u64::from(p.dead)).sum::<u64>();
        sum.add(&going);
        if index.writable().is_err() {
            // opened again it misses packs, so it is made anew, and knows of no burial
            unless_full(written)?;
            self.settle(&mut ingest)?;
            return Ok(false);
        }
        written.map(|()| true)
    }
}
