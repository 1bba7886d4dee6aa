//! The index from the packs alone, and after a crash the packs that the index does not have yet.

use crate::core::{PACKS, pack_name};
use crate::error::{Result, format_error, io_error};
use crate::index::{INDEX, Index, Move, Setting};
use crate::storage::{File, Storage, read_exact};
use format::frame::{Frame, MAX_FRAME};
use format::pack::{
    Found, HEADER_LEN, MAX_PACK, PackHeader, Record, TRAILER_LEN, find_frame, footer_len,
    parse_footer,
};
use format::{DatastoreId, Digest, PackId};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

/// Opens the index and adds the packs that a crash kept from it. One that cannot be opened, or that
/// names packs that are gone though something was found in them, is made anew.
pub(crate) fn usable_index(setting: Setting) -> Result<Index> {
    let present = pack_ids(&*setting.storage)?;
    let there: HashSet<&PackId> = present.iter().collect();
    let opened = Index::open(setting.clone()).and_then(|index| {
        let gone = index.packs_that(|_, pack| !there.contains(&pack.id))?;
        let from: Vec<u32> = gone.iter().map(|(number, _)| *number).collect();
        let empty = gone.iter().all(|(_, pack)| pack.dead == pack.bytes);
        if empty && !gone.is_empty() {
            index.relocate(&Move {
                from: &from,
                to: None,
            })?;
        }
        Ok(empty.then_some(index))
    });
    match opened {
        Ok(Some(index)) => {
            add_missing(&index, present)?;
            Ok(index)
        }
        _ => rebuild(setting),
    }
}

/// Opens an index again that a failure closed, with the packs that were not in it durably.
pub(crate) fn reopen(index: &Index) -> Result<()> {
    if index.reopen()? {
        add_missing(index, pack_ids(&*index.setting().storage)?)?;
    }
    Ok(())
}

fn add_missing(index: &Index, mut present: Vec<PackId>) -> Result<()> {
    let indexed: HashSet<_> = index.packs()?.into_iter().collect();
    present.retain(|id| !indexed.contains(id));
    add(index, &present)
}

/// Makes the index anew from the packs.
pub(crate) fn rebuild(setting: Setting) -> Result<Index> {
    let storage = &setting.storage;
    let place = storage.place();
    match storage.remove(INDEX) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error(&place, "remove", INDEX)(error));
        }
        _ => {}
    }
    storage
        .create(INDEX)
        .map_err(io_error(&place, "create", INDEX))?;
    storage
        .sync_dir("")
        .map_err(io_error(&place, "sync", "the directory"))?;
    let present = pack_ids(&**storage)?;
    let index = Index::open(setting)?;
    add(&index, &present)?;
    Ok(index)
}

fn pack_ids(storage: &dyn Storage) -> Result<Vec<PackId>> {
    let names = storage
        .list(PACKS)
        .map_err(io_error(&storage.place(), "list", PACKS))?;
    let id = |name: &String| {
        let id: PackId = name.strip_suffix(".pack")?.parse().ok()?;
        // with capitals it is somebody else's
        (format!("{id}.pack") == *name).then_some(id)
    };
    Ok(names.iter().filter_map(id).collect())
}

/// Adds packs. A frame that refers to something that is nowhere is left out, so that the next
/// backup stores it anew.
fn add(index: &Index, packs: &[PackId]) -> Result<()> {
    let Setting {
        storage, datastore, ..
    } = index.setting();
    let datastore = *datastore;
    if !packs.is_empty() {
        // who named them may have been killed before the names were durable
        storage
            .sync_dir(PACKS)
            .map_err(io_error(&storage.place(), "sync", PACKS))?;
    }
    let mut metadata = Vec::new();
    for id in packs {
        let name = pack_name(*id);
        let file = storage
            .open(&name)
            .map_err(io_error(&storage.place(), "open", &name))?;
        let Some((records, _)) = records(&*file, &name, &storage.place(), datastore)? else {
            continue;
        };
        if records.iter().any(|r| r.kind.has_refs()) {
            metadata.push((*id, file, records));
        } else {
            index.add_pack(*id, &records, 0)?;
        }
    }
    // of each frame what it refers to that is not there yet: other metadata, there is little of it
    let mut links: HashMap<Digest, Vec<Digest>> = HashMap::new();
    for (id, file, records) in &metadata {
        for record in records {
            if !record.kind.has_refs() {
                links.insert(record.digest, Vec::new());
                continue;
            }
            let bytes = read_exact(&**file, record.offset.into(), record.length as usize)
                .map_err(io_error(&storage.place(), "read", &pack_name(*id)))?;
            let mut missing = Vec::new();
            match Frame::parse(&bytes, datastore) {
                Ok(frame) => {
                    for needed in frame.refs() {
                        if !index.usable(&needed)? {
                            missing.push(needed);
                        }
                    }
                }
                // a damaged one refers to nothing that could be told, and is itself of no use
                Err(_) => missing.push(Digest([0; 32])),
            }
            links.insert(record.digest, missing);
        }
    }
    loop {
        let dangles = |refs: &Vec<Digest>| !refs.iter().all(|r| links.contains_key(r));
        let dangling: Vec<Digest> = links
            .iter()
            .filter(|(_, refs)| dangles(refs))
            .map(|(digest, _)| *digest)
            .collect();
        if dangling.is_empty() {
            break;
        }
        dangling
            .iter()
            .for_each(|digest| drop(links.remove(digest)));
    }
    for (id, _, mut records) in metadata {
        let whole: u32 = records.iter().map(|r| r.length).sum();
        records.retain(|r| links.contains_key(&r.digest));
        let kept: u32 = records.iter().map(|r| r.length).sum();
        index.add_pack(id, &records, whole - kept)?;
    }
    Ok(())
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

impl crate::Store {
    /// Makes the index anew from the packs, whatever state it is in, and opens the datastore.
    ///
    /// # Errors
    /// As [`crate::Store::open`]; a pack of a newer format.
    pub fn recover(storage: Arc<dyn Storage>, options: crate::Options) -> Result<Self> {
        let store = Self::open(storage.clone(), options.clone())?;
        let setting = store.core.index.setting().clone();
        drop(store);
        drop(rebuild(setting)?);
        Self::open(storage, options)
    }
}
