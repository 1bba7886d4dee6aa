//! A pack that is being written.

use crate::core::{Core, PACKS, TEMPORARY, pack_name, random};
use crate::error::Result;
use crate::storage::File;
use format::PackId;
use format::frame::Header;
use format::pack::{PackHeader, Record, encode_footer};
use std::sync::Arc;

/// Bytes gathered before the file is written to.
const WRITE_SIZE: usize = 1 << 20;

/// A pack is closed at so many frames, however short they are: whoever writes, reads or indexes one holds
/// something for each, and of more the index would not look into the footer ([`crate::index`], near).
pub(crate) const MOST_FRAMES: usize = 20_000;

/// A pack of metadata is closed at so many references: all of them are in memory when it enters the index.
pub(crate) const MOST_REFERENCES: u64 = 100_000;

pub(crate) struct OpenPack {
    core: Arc<Core>,
    id: PackId,
    name: String,
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    written: u64,
    records: Vec<Record>,
    references: u64,
    named: bool,
}

impl Drop for OpenPack {
    fn drop(&mut self) {
        if !self.named {
            // best effort: what stays is removed when the datastore is next opened
            let _ = self.core.storage.remove(&self.name);
        }
    }
}

impl OpenPack {
    pub(crate) fn begin(core: &Arc<Core>) -> Result<Self> {
        let id = PackId(random()?);
        let name = format!("{TEMPORARY}/{id}.pack");
        let file = core
            .storage
            .create(&name)
            .map_err(core.io("create", &name))?;
        Ok(Self {
            buffer: header(core, id).encode().to_vec(),
            core: core.clone(),
            id,
            name,
            file,
            written: 0,
            records: Vec::new(),
            references: 0,
            named: false,
        })
    }

    fn length(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    pub(crate) fn is_full(&self) -> bool {
        self.length() >= self.core.options.pack_size.into()
            || self.records.len() >= MOST_FRAMES
            || self.references >= MOST_REFERENCES
    }

    pub(crate) fn append(&mut self, header: &Header, raw: &[u8]) -> Result<()> {
        self.records.push(Record::of(header, self.length() as u32));
        self.references += u64::from(header.ref_count);
        self.buffer.extend_from_slice(raw);
        if self.buffer.len() >= WRITE_SIZE {
            self.write_out()?;
        }
        Ok(())
    }

    fn write_out(&mut self) -> Result<()> {
        self.file
            .write_at(&self.buffer, self.written)
            .map_err(|error| self.core.io("write", &self.name)(error))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the pack; it is durable under its name on return.
    pub(crate) fn seal(mut self) -> Result<(PackId, Vec<Record>)> {
        let footer = encode_footer(&header(&self.core, self.id), &self.records);
        self.buffer.extend_from_slice(&footer);
        self.write_out()?;
        let core = self.core.clone();
        self.file.sync().map_err(core.io("sync", &self.name))?;
        core.storage
            .rename(&self.name, &pack_name(self.id))
            .map_err(core.io("rename", &self.name))?;
        // if this fails it stays, for it may have been found there; the next opening enters it
        self.named = true;
        core.storage
            .sync_dir(PACKS)
            .map_err(core.io("sync", PACKS))?;
        Ok((self.id, std::mem::take(&mut self.records)))
    }
}

fn header(core: &Core, pack: PackId) -> PackHeader {
    PackHeader {
        datastore: core.datastore,
        pack,
    }
}
