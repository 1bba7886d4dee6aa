//! The index from the packs alone, and after a crash the packs that the index does not have yet.

use crate::core::{PACKS, pack_name};
use crate::error::{Result, format_error, io_error};
use crate::index::{INDEX, Index};
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
/// names packs that are gone, is made anew.
pub(crate) fn usable_index(
    storage: &Arc<dyn Storage>,
    datastore: DatastoreId,
    cache: usize,
) -> Result<Index> {
    let present = pack_ids(&**storage)?;
    let opened = Index::open(storage.clone(), INDEX, cache)
        .and_then(|index| index.packs().map(|indexed| (index, indexed)));
    if let Ok((index, indexed)) = opened
        && indexed.iter().all(|id| present.contains(id))
    {
        let indexed: HashSet<_> = indexed.into_iter().collect();
        let missing: Vec<_> = present
            .into_iter()
            .filter(|id| !indexed.contains(id))
            .collect();
        add(&index, storage, datastore, &missing)?;
        return Ok(index);
    }
    rebuild(storage, datastore, cache)
}

/// Makes the index anew from the packs.
pub(crate) fn rebuild(
    storage: &Arc<dyn Storage>,
    datastore: DatastoreId,
    cache: usize,
) -> Result<Index> {
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
    let index = Index::open(storage.clone(), INDEX, cache)?;
    add(&index, storage, datastore, &pack_ids(&**storage)?)?;
    Ok(index)
}

fn pack_ids(storage: &dyn Storage) -> Result<Vec<PackId>> {
    let names = storage
        .list(PACKS)
        .map_err(io_error(&storage.place(), "list", PACKS))?;
    Ok(names
        .iter()
        .filter_map(|n| n.strip_suffix(".pack")?.parse().ok())
        .collect())
}

/// Adds packs, then marks broken what refers to something that is nowhere.
fn add(
    index: &Index,
    storage: &Arc<dyn Storage>,
    datastore: DatastoreId,
    packs: &[PackId],
) -> Result<()> {
    let mut found = Vec::new();
    let mut links: HashMap<Digest, Vec<Digest>> = HashMap::new();
    for id in packs {
        let name = pack_name(*id);
        let file = storage
            .open(&name)
            .map_err(io_error(&storage.place(), "open", &name))?;
        let Some((records, _)) = records(&*file, &name, &storage.place(), datastore)? else {
            continue;
        };
        for record in records.iter().filter(|r| r.kind.has_refs()) {
            let bytes = read_exact(&*file, record.offset.into(), record.length as usize)
                .map_err(io_error(&storage.place(), "read", &name))?;
            // a damaged one refers to nothing that could be told, and is itself unusable
            let refs = Frame::parse(&bytes, datastore).map(|f| f.refs().collect());
            links.insert(
                record.digest,
                refs.unwrap_or_else(|_| vec![Digest([0; 32])]),
            );
        }
        found.push((*id, records));
    }
    if found.is_empty() {
        return Ok(());
    }
    index.add_packs(&found)?;
    let mut broken: HashSet<Digest> = HashSet::new();
    loop {
        let mut more = Vec::new();
        for (digest, refs) in links.iter().filter(|(d, _)| !broken.contains(*d)) {
            for needed in refs {
                if broken.contains(needed) || !index.usable(needed)? {
                    more.push(*digest);
                    break;
                }
            }
        }
        if more.is_empty() {
            break;
        }
        broken.extend(more);
    }
    index.mark_broken(&broken.into_iter().collect::<Vec<_>>())
}

/// The frames of a pack: by its header and footer, or by looking for them where one of these is
/// damaged (then `false`). `None` for a file that is no pack of this datastore.
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
        let trailer = read(length - TRAILER_LEN as u64, TRAILER_LEN)?;
        if let Ok(footer) = footer_len(&trailer, length)
            && let Ok(records) =
                parse_footer(&read(length - footer as u64, footer)?, header, length)
        {
            return Ok(Some((records, true)));
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
        let store = Self::open(storage.clone(), options)?;
        let datastore = store.datastore();
        drop(store);
        drop(rebuild(&storage, datastore, options.cache)?);
        Self::open(storage, options)
    }
}
