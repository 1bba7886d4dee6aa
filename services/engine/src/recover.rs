//! The index from the packs alone, and after a crash the packs that the index does not have yet.

mod patient;

use crate::core::{PACKS, SNAPSHOTS, locked, pack_name, write_whole};
use crate::error::{Error, Result, format_error, io_error, unless_full};
use crate::index::{INDEX, Index, Location, Move, Setting, UNFINISHED};
use crate::progress::Progress;
use crate::storage::{File, Storage, read_exact};
use format::frame::{Frame, MAX_FRAME};
use format::lock::Lock;
use format::pack::{
    Found, HEADER_LEN, MAX_PACK, PackHeader, Record, TRAILER_LEN, find_frame, footer_len,
    parse_footer,
};
use format::snapshot::{MAX_SNAPSHOT, Snapshot};
use format::{DatastoreId, Digest, PackId};
use patient::Patient;
pub(crate) use patient::Unread;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;

/// An index that lacks more rows than so many batches is made anew: until all are added they are held in
/// memory. Those of a crash are far fewer, what the pipeline had in hand.
const BATCHES: usize = 64;

/// A file that is there while the index lacks what a disk did not read of packs, and names these. What they
/// hold besides nobody knows, so none is given up.
const UNREAD: &str = "unread";

/// Opens the index and adds the packs that a crash kept from it. One that cannot be opened, that lacks
/// very much, or that names packs that are gone though something was found in them, is made anew.
pub(crate) fn usable_index(setting: Setting) -> Result<Index> {
    let present = pack_ids(&*setting.storage)?;
    let most = setting.batch.saturating_mul(BATCHES);
    let mut broken = Vec::new();
    match Index::open(setting.clone()) {
        Ok(index) => {
            if leave_gone(&index, &present)? && add_missing(&index, present, most)? {
                return Ok(index);
            }
            broken = index.broken()?;
        }
        // nor has one that is made anew any room
        Err(error) if error.is_full() => return Err(error),
        Err(_) => {}
    }
    let index = rebuild(setting)?;
    // nobody reads all of them again to find that out
    unless_full(index.mark_broken(&broken))?;
    Ok(index)
}

/// Opens an index again that a failure left to be read only.
pub(crate) fn reopen(index: &Index) -> Result<()> {
    match index.writable() {
        Ok(()) => Ok(()),
        Err(_) => index.reopen(usable_index),
    }
}

/// Has the index forget the packs that are gone, if nothing was found in them any more; says whether.
fn leave_gone(index: &Index, present: &[PackId]) -> Result<bool> {
    let there: HashSet<&PackId> = present.iter().collect();
    let gone = index.packs_that(|_, pack| !there.contains(&pack.id))?;
    let empty = gone.iter().all(|(_, pack)| pack.dead == pack.bytes);
    if empty && !gone.is_empty() {
        let from: Vec<u32> = gone.iter().map(|(number, _)| *number).collect();
        let to = None;
        unless_full(index.relocate(&Move { from: &from, to }))?;
    }
    Ok(empty)
}

/// Says whether all are in.
fn add_missing(index: &Index, mut present: Vec<PackId>, most: usize) -> Result<bool> {
    let indexed: HashSet<_> = index.packs()?.into_iter().collect();
    present.retain(|id| !indexed.contains(id));
    drop(indexed);
    if present.is_empty() {
        return Ok(true);
    }
    index.at_once(|| add(index, &present, most))
}

/// Makes the index anew from the packs.
pub(crate) fn rebuild(setting: Setting) -> Result<Index> {
    let storage = setting.storage.clone();
    let place = storage.place();
    for name in [INDEX, UNFINISHED] {
        match storage.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(&place, "remove", name)(error));
            }
            _ => {}
        }
    }
    storage
        .create(UNFINISHED)
        .map_err(io_error(&place, "create", UNFINISHED))?;
    storage
        .sync_dir("")
        .map_err(io_error(&place, "sync", "the directory"))?;
    let present = pack_ids(&*storage)?;
    let length = |id: &PackId| storage.open(&pack_name(*id)).and_then(|file| file.len());
    // what cannot be looked at is told by who reads it
    let lengths = present.iter().filter_map(|id| length(id).ok());
    setting
        .progress
        .expect(lengths.fold(0, u64::saturating_add));
    let unread = setting.unread.clone().unwrap_or_default();
    let index = Index::make(setting)?;
    add(&index, &present, usize::MAX)?;
    let unread: Vec<String> = locked(&unread).keys().cloned().collect();
    if !unread.is_empty() {
        // before there is an index that does not tell
        write_whole(&*storage, "", UNREAD, unread.join("\n").as_bytes())?;
    }
    index.finish()?;
    if unread.is_empty() {
        all_read(&*storage)?;
    }
    Ok(index)
}

/// What could not be read was, or nothing needs it.
pub(crate) fn all_read(storage: &dyn Storage) -> Result<()> {
    match storage.remove(UNREAD) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error(&storage.place(), "remove", UNREAD)(error))
        }
        _ => Ok(()),
    }
}

/// Refuses where packs may hold what the index lacks because a disk did not read it.
pub(crate) fn check_all_read(storage: &dyn Storage) -> Result<()> {
    match storage.open(UNREAD) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(&storage.place(), "open", UNREAD)(error)),
        Ok(_) => Err(Error::Unread {
            place: storage.place(),
        }),
    }
}

fn pack_ids(storage: &dyn Storage) -> Result<Vec<PackId>> {
    let names = storage
        .list(PACKS)
        .map_err(io_error(&storage.place(), "list", PACKS))?;
    Ok(names.iter().filter_map(|name| pack_id(name)).collect())
}

fn pack_id(name: &str) -> Option<PackId> {
    let id: PackId = name.strip_suffix(".pack")?.parse().ok()?;
    // with capitals it is somebody else's
    (format!("{id}.pack") == name).then_some(id)
}

/// Adds packs, until there are more than so many rows in memory; says whether all are in. A frame of
/// metadata that is damaged is left out. One that leads to something that is nowhere is left out as well if
/// no snapshot needs it, as what a collection had no time to remove; else it is marked broken, so that the
/// next backup stores it anew: what else it leads to is needed, and counted as such.
///
/// In what order packs refer to each other nobody knows, nor is there memory for all references. So
/// first everything is added, and then marked what leads nowhere: meanwhile the index says too much,
/// and nobody may rely on it.
fn add(index: &Index, packs: &[PackId], most: usize) -> Result<bool> {
    let Setting {
        storage, progress, ..
    } = index.setting();
    if !packs.is_empty() {
        // who named them may have been killed before the names were durable
        storage
            .sync_dir(PACKS)
            .map_err(io_error(&storage.place(), "sync", PACKS))?;
    }
    let mut metadata = Vec::new();
    for id in packs {
        progress.check()?;
        let Some((file, mut records)) = listed(index, *id)? else {
            continue;
        };
        for record in records.iter().filter(|r| !r.kind.has_refs()) {
            // stored twice, which is done when the first one is damaged
            if let Some(first) = index.find(&record.digest)?
                && !is_sound(index, &record.digest, &first)?
            {
                index.mark(&record.digest)?;
            }
        }
        let mut useless = 0;
        if records.iter().any(|r| r.kind.has_refs()) {
            metadata.push(*id);
            let mut sound = Vec::new();
            for record in records {
                // a damaged one refers to nothing that could be told, and is itself of no use
                if !record.kind.has_refs()
                    || refs(index, *id, &*file, record.offset, record.length)?.is_some()
                {
                    sound.push(record);
                } else {
                    useless += record.length;
                }
            }
            records = sound;
        }
        index.add_pack(*id, &records, useless)?;
        let length: u64 = records.iter().map(|r| u64::from(r.length)).sum();
        progress.add_bytes(length + u64::from(useless));
        if index.waiting()? > most {
            return Ok(false);
        }
    }
    let mut marked = HashSet::new();
    while mark(index, &metadata, &mut marked, progress)? {}
    leave_out(index, marked)?;
    Ok(true)
}

/// Marks the frames of these packs that refer to what is not there; says whether any did, for then
/// others refer to those.
fn mark(
    index: &Index,
    metadata: &[PackId],
    marked: &mut HashSet<Digest>,
    progress: &Progress,
) -> Result<bool> {
    let before = marked.len();
    for id in metadata {
        progress.check()?;
        let Some((file, records)) = listed(index, *id)? else {
            continue;
        };
        for record in records.iter().filter(|r| r.kind.has_refs()) {
            let found = index.find(&record.digest)?;
            let here = |f: &Location| (f.pack, f.offset) == (*id, record.offset) && !f.broken;
            if !found.as_ref().is_some_and(here) {
                continue;
            }
            let Some(refs) = refs(index, *id, &*file, record.offset, record.length)? else {
                continue;
            };
            for needed in &refs {
                if !index.usable(needed)? {
                    index.mark(&record.digest)?;
                    marked.insert(record.digest);
                    break;
                }
            }
        }
    }
    Ok(marked.len() > before)
}

/// Leaves out those of what was marked that no snapshot leads to: whatever leads to one is marked too.
fn leave_out(index: &Index, mut marked: HashSet<Digest>) -> Result<()> {
    let refs_of = |digest: &Digest| -> Result<Vec<Digest>> {
        let Some(place) = index.find(digest)? else {
            return Ok(Vec::new());
        };
        let file = open_pack(index.setting(), place.pack)?;
        let refs = refs(index, place.pack, &*file, place.offset, place.length)?;
        Ok(refs.unwrap_or_default())
    };
    let mut open = if marked.is_empty() {
        Vec::new()
    } else {
        roots(index.setting())?
    };
    while let Some(digest) = open.pop() {
        if marked.remove(&digest) {
            open.extend(refs_of(&digest)?);
        }
    }
    for digest in marked {
        index.leave_out(&digest, &refs_of(&digest)?)?;
    }
    Ok(())
}

/// Roots of all snapshots that say theirs, by themselves or by their locks.
fn roots(setting: &Setting) -> Result<Vec<Digest>> {
    let Setting {
        storage, datastore, ..
    } = setting;
    let place = storage.place();
    let names = storage.list(SNAPSHOTS);
    let mut roots = Vec::new();
    for name in names.map_err(io_error(&place, "list", SNAPSHOTS))? {
        let name = format!("{SNAPSHOTS}/{name}");
        let Ok(file) = storage.open(&name) else {
            continue;
        };
        let length = file.len().map_err(io_error(&place, "read", &name))?;
        let length = length.min(MAX_SNAPSHOT as u64) as usize;
        // what cannot be read says none
        let bytes = read_exact(&*file, 0, length).unwrap_or_default();
        roots.extend(match name.ends_with(".lock") {
            true => Lock::parse(&bytes)
                .ok()
                .map(|lock| (lock.datastore, lock.root)),
            false => Snapshot::parse(bytes)
                .ok()
                .map(|s| (s.clear.datastore, s.clear.root)),
        });
    }
    roots.retain(|(of, _)| of == datastore);
    Ok(roots.into_iter().map(|(_, root)| root).collect())
}

/// A pack's file and its frames.
type Listed = (Arc<dyn File>, Vec<Record>);

/// `None` for what is no pack of this datastore.
fn listed(index: &Index, id: PackId) -> Result<Option<Listed>> {
    let Setting {
        storage,
        datastore,
        unread,
        ..
    } = index.setting();
    let (name, file) = (pack_name(id), open_pack(index.setting(), id)?);
    let listed = records(&*file, &name, &storage.place(), *datastore)?;
    // one that cannot be read may be one of this datastore
    let is_unread = || matches!(unread, Some(unread) if locked(unread).contains_key(&name));
    let records = match listed {
        Some((records, _)) => Some(records),
        None => is_unread().then(Vec::new),
    };
    Ok(records.map(|records| (file, records)))
}

/// A pack's file, as the index that is made reads it.
pub(crate) fn open_pack(setting: &Setting, id: PackId) -> Result<Arc<dyn File>> {
    let name = pack_name(id);
    let open = || setting.storage.open(&name);
    Ok(match setting.unread.clone() {
        Some(unread) => Arc::new(Patient::new(open, name.clone(), unread)),
        None => open().map_err(io_error(&setting.storage.place(), "open", &name))?,
    })
}

/// Whether a chunk's frame is there and its check holds.
fn is_sound(index: &Index, digest: &Digest, place: &Location) -> Result<bool> {
    let file = open_pack(index.setting(), place.pack)?;
    let bytes = read_frame(index, place.pack, &*file, place.offset, place.length)?;
    let frame = Frame::parse(&bytes, index.setting().datastore);
    Ok(frame.is_ok_and(|frame| frame.header.digest == *digest))
}

/// What a frame of a pack refers to; `None` if it is damaged.
fn refs(
    index: &Index,
    pack: PackId,
    file: &dyn File,
    offset: u32,
    length: u32,
) -> Result<Option<Vec<Digest>>> {
    let bytes = read_frame(index, pack, file, offset, length)?;
    let frame = Frame::parse(&bytes, index.setting().datastore).ok();
    Ok(frame.map(|frame| frame.refs().collect()))
}

/// A frame of a pack, empty where the pack ends before. A disk that fails is an error: it may not the
/// next time, and the index is to lack nothing by then.
fn read_frame(
    index: &Index,
    pack: PackId,
    file: &dyn File,
    offset: u32,
    length: u32,
) -> Result<Vec<u8>> {
    read_exact(file, offset.into(), length as usize).or_else(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Ok(Vec::new()),
        _ => {
            let place = index.setting().storage.place();
            Err(io_error(&place, "read", &pack_name(pack))(error))
        }
    })
}

/// The frames of a pack: by its header and footer, or by looking for them where one of these is
/// damaged. Then, and when it has another pack's content, `false`. `None` for a file that is no pack of this datastore.
pub(crate) fn records(
    file: &dyn File,
    name: &str,
    place: &str,
    datastore: DatastoreId,
) -> Result<Option<(Vec<Record>, bool)>> {
    let read = |offset: u64, length: usize| {
        read_exact(file, offset, length).map_err(io_error(place, "read", name))
    };
    let length = file.len().map_err(io_error(place, "read", name))?;
    if length < (HEADER_LEN + TRAILER_LEN) as u64 || length > MAX_PACK {
        return Ok(None);
    }
    let header = PackHeader::parse(&read(0, HEADER_LEN)?);
    if let Ok(header) = &header {
        if header.datastore != datastore {
            return Ok(None);
        }
        // of another pack's name: whoever looks for a frame here by its place will not find it
        let renamed = pack_name(header.pack) != name;
        let trailer = read(length - TRAILER_LEN as u64, TRAILER_LEN)?;
        if let Ok(footer) = footer_len(&trailer, length)
            && let Ok(records) =
                parse_footer(&read(length - footer as u64, footer)?, header, length)
        {
            return Ok(Some((records, !renamed)));
        }
    } else if let Err(version @ format::FormatError::Version { .. }) = header {
        return Err(format_error(name)(version));
    }
    scan(&read, length, datastore).map(|records| Some((records, false)))
}

/// Looks through a damaged pack for frames whose check holds.
fn scan(
    read: &dyn Fn(u64, usize) -> Result<Vec<u8>>,
    length: u64,
    datastore: DatastoreId,
) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut at = HEADER_LEN as u64;
    while at < length {
        let window = read(at, (length - at).min(2 * MAX_FRAME as u64) as usize)?;
        match find_frame(&window, 0, datastore) {
            Found::Frame { at: place, header } => {
                let offset = at + place as u64;
                records.push(Record::of(&header, offset as u32));
                at = offset + header.frame_len() as u64;
            }
            // one that the pack is too short for is none
            Found::Perhaps { at: place, .. } => at += place as u64 + 1,
            Found::Nothing => at += (window.len() as u64).max(4) - 3,
        }
    }
    Ok(records)
}

impl crate::core::Core {
    /// A sentence for each file among the packs that is none of this datastore's. They are left alone.
    pub(crate) fn foreign(&self) -> Result<Vec<String>> {
        let names = self.storage.list(PACKS).map_err(self.io("list", PACKS))?;
        let indexed: HashSet<PackId> = self.index.packs()?.into_iter().collect();
        let mut sentences = Vec::new();
        for name in names {
            let id = pack_id(&name);
            if id.is_some_and(|id| indexed.contains(&id)) {
                continue;
            }
            // one that a backup is about to add has frames; one that is gone by now is none
            if id.is_none_or(|id| matches!(self.records_of(id), Ok(None))) {
                let head = self.storage.open(&format!("{PACKS}/{name}"));
                let head = head.and_then(|file| read_exact(&*file, 0, HEADER_LEN));
                let header = head.ok().and_then(|head| PackHeader::parse(&head).ok());
                let header = header.filter(|header| header.datastore != self.datastore);
                let name = format!("{PACKS}/{}", name.escape_debug());
                sentences.push(match header {
                    Some(PackHeader { datastore, .. }) => format!(
                        "{name} belongs to datastore {datastore} and is left alone; take it there"
                    ),
                    None => format!(
                        "{name} is no pack of this datastore and is left alone; remove it if nobody misses it"
                    ),
                });
            }
        }
        Ok(sentences)
    }

    /// What [`records`] finds in a pack.
    pub(crate) fn records_of(&self, pack: PackId) -> Result<Option<(Vec<Record>, bool)>> {
        let (name, storage) = (pack_name(pack), &self.storage);
        let file = storage.open(&name).map_err(self.io("open", &name))?;
        records(&*file, &name, &storage.place(), self.datastore)
    }
}

impl crate::Store {
    /// Makes the index anew from the packs, whatever state it is in, and opens the datastore. Places that
    /// a disk does not read at a second try are taken for damaged, where opening fails: it may read them
    /// the next time, but whoever asks for this knows that it does not. Answers a sentence for each pack
    /// with such, and for what is no pack of the datastore; while there are the former, no pack is given up
    /// ([`crate::Error::Unread`]).
    ///
    /// # Errors
    /// As [`crate::Store::open`]; a pack of a newer format; cancelled, and the next opening makes the index.
    pub fn recover(
        storage: Arc<dyn Storage>,
        options: crate::Options,
    ) -> Result<(Self, Vec<String>)> {
        let unread = Unread::default();
        let anew = |setting: Setting| {
            let patient = Setting {
                unread: Some(unread.clone()),
                ..setting.clone()
            };
            drop(rebuild(patient)?);
            Index::open(setting)
        };
        let store = Self::open_by(storage, options, anew)?;
        let sentence = |(name, at): (&String, &u64)| {
            format!(
                "{name} cannot be read at byte {at}, and what is there was left out; recover again if the disk reads it \
                 by then, else replace the disk and repair from another copy"
            )
        };
        let mut findings: Vec<String> = locked(&unread).iter().map(sentence).collect();
        findings.extend(store.core.foreign()?);
        Ok((store, findings))
    }
}
