//! A sorted run: rows in order of digest in a file that never changes, with a filter that tells of
//! most digests that they are not in it, and a tree of fences to the page a digest must be in.
//!
//! ```text
//! page 0: header | filter pages | leaf pages of rows | fence pages, lowest level first
//! ```
//!
//! Pages are 4 KiB, the last 8 bytes of each a check, and go through [`Memory`]. The filter is a
//! Bloom filter in blocks of a cache line (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient
//! Bloom Filters, 2007), 10 bits to a row, 7 of them set: of digests that are not there 1 in 80 is
//! looked for in vain. A digest's first bytes choose the block, so blocks are written in the order of
//! rows and a run is made in one pass, however long it is.
//!
//! A fence is the first 8 bytes of a page's first digest. Digests that share these are found all the
//! same: every page that may hold one is looked into.

use super::row::{ROW, Row, search};
use crate::memory::Memory;
use crate::storage::File;
use format::{DatastoreId, Digest};
use std::io::{self, Error, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

const PAGE: usize = 4096;
const CHECK: usize = 8;
const ROWS_OF_PAGE: usize = (PAGE - CHECK) / ROW;
const FENCES_OF_PAGE: usize = (PAGE - CHECK) / 8;
const BLOCK: usize = 64;
const BLOCKS_OF_PAGE: usize = (PAGE - CHECK) / BLOCK;
const BITS_OF_ROW: u64 = 10;
const MAGIC: &[u8; 8] = b"SRRUN\x1a\x01\n";
/// Bytes gathered before they are written, and read at once by [`Run::rows`].
const BATCH: usize = 64 * PAGE;

fn check_of(page: &[u8]) -> [u8; CHECK] {
    let hash = blake3::hash(page);
    std::array::from_fn(|i| hash.as_bytes()[i])
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("its {what} is damaged"))
}

/// The number that says where a digest belongs.
fn place(digest: &Digest) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|i| digest.0[i]))
}

/// The block of a digest among so many.
fn block(digest: &Digest, blocks: u64) -> u64 {
    ((u128::from(place(digest)) * u128::from(blocks)) >> 64) as u64
}

/// The bits of a digest in its block: byte and mask.
fn bits(digest: &Digest) -> impl Iterator<Item = (usize, u8)> + use<> {
    let hash = u64::from_le_bytes(std::array::from_fn(|i| digest.0[8 + i]));
    (0..7).map(move |i| {
        let bit = (hash >> (9 * i)) as usize % (8 * BLOCK);
        (bit / 8, 1 << (bit % 8))
    })
}

/// Pages written one after the other from a place on.
struct Pages<'a> {
    file: &'a dyn File,
    at: u64,
    page: Vec<u8>,
    batch: Vec<u8>,
}

impl<'a> Pages<'a> {
    fn new(file: &'a dyn File, first: u64) -> Self {
        Self {
            file,
            at: first * PAGE as u64,
            page: Vec::with_capacity(PAGE),
            batch: Vec::with_capacity(BATCH),
        }
    }

    /// Ends the page that was begun.
    fn end(&mut self) -> io::Result<()> {
        self.page.resize(PAGE - CHECK, 0);
        let check = check_of(&self.page);
        self.batch.append(&mut self.page);
        self.batch.extend_from_slice(&check);
        if self.batch.len() >= BATCH {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_at(&self.batch, self.at)?;
        self.at += self.batch.len() as u64;
        self.batch.clear();
        Ok(())
    }
}

/// Writes a run.
pub(super) struct Builder<'a> {
    file: &'a dyn File,
    datastore: DatastoreId,
    blocks: u64,
    /// The block that is being filled, and its number.
    filling: ([u8; BLOCK], u64),
    filter: Pages<'a>,
    leaves: Pages<'a>,
    fences: Vec<u64>,
    rows: u64,
    last: Option<Digest>,
}

impl<'a> Builder<'a> {
    /// Begins in an empty file; at most so many rows will come.
    pub(super) fn new(file: &'a dyn File, datastore: DatastoreId, most: u64) -> Self {
        let blocks = (most * BITS_OF_ROW).div_ceil(8 * BLOCK as u64).max(1);
        let first_leaf = 1 + blocks.div_ceil(BLOCKS_OF_PAGE as u64);
        Self {
            file,
            datastore,
            blocks,
            filling: ([0; BLOCK], 0),
            filter: Pages::new(file, 1),
            leaves: Pages::new(file, first_leaf),
            // grown step by step it would be in memory twice
            fences: Vec::with_capacity(most.div_ceil(ROWS_OF_PAGE as u64) as usize),
            rows: 0,
            last: None,
        }
    }

    /// Adds the next row in order of digest.
    pub(super) fn push(&mut self, row: &Row) -> io::Result<()> {
        debug_assert!(self.last.is_none_or(|last| last < row.digest));
        self.last = Some(row.digest);
        self.fill_up_to(block(&row.digest, self.blocks))?;
        for (byte, mask) in bits(&row.digest) {
            self.filling.0[byte] |= mask;
        }
        if self.leaves.page.is_empty() {
            self.fences.push(place(&row.digest));
        }
        row.encode(&mut self.leaves.page);
        self.rows += 1;
        if self.leaves.page.len() == ROWS_OF_PAGE * ROW {
            self.leaves.end()?;
        }
        Ok(())
    }

    fn fill_up_to(&mut self, block: u64) -> io::Result<()> {
        while self.filling.1 < block {
            self.filter.page.extend_from_slice(&self.filling.0);
            self.filling = ([0; BLOCK], self.filling.1 + 1);
            if self.filter.page.len() == BLOCKS_OF_PAGE * BLOCK {
                self.filter.end()?;
            }
        }
        Ok(())
    }

    /// Ends the run, durable but for its name.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.fill_up_to(self.blocks)?;
        if !self.filter.page.is_empty() {
            self.filter.end()?;
        }
        self.filter.write()?;
        if !self.leaves.page.is_empty() {
            self.leaves.end()?;
        }
        let mut level = self.fences;
        let leaves = level.len() as u64;
        while level.len() > 1 {
            let mut above = Vec::new();
            for fences in level.chunks(FENCES_OF_PAGE) {
                above.push(fences[0]);
                let bytes = fences.iter().flat_map(|f| f.to_le_bytes());
                self.leaves.page.extend(bytes);
                self.leaves.end()?;
            }
            level = above;
        }
        self.leaves.write()?;
        let mut header = Pages::new(self.file, 0);
        header.page.extend_from_slice(MAGIC);
        header.page.extend_from_slice(&self.datastore.0);
        for number in [self.rows, self.blocks, leaves] {
            header.page.extend_from_slice(&number.to_le_bytes());
        }
        header.end()?;
        header.write()?;
        self.file.sync()
    }
}

/// A run that is read.
pub(super) struct Run {
    file: Arc<dyn File>,
    memory: Arc<Memory>,
    /// By which `memory` knows it.
    number: u64,
    rows: u64,
    blocks: u64,
    first_leaf: u64,
    /// First page and number of pages of each level of fences, lowest first.
    levels: Vec<(u64, u64)>,
    leaves: u64,
}

impl Run {
    /// Opens a run; one of another datastore is damage.
    pub(super) fn open(
        file: Arc<dyn File>,
        datastore: DatastoreId,
        memory: Arc<Memory>,
    ) -> io::Result<Self> {
        let header = read_page(&*file, 0)?;
        let number = |i: usize| u64::from_le_bytes(std::array::from_fn(|b| header[24 + 8 * i + b]));
        let (rows, blocks, leaves) = (number(0), number(1), number(2));
        let most = file.len()? / PAGE as u64;
        let sound = header[..8] == MAGIC[..]
            && header[8..24] == datastore.0
            && blocks > 0
            && blocks.div_ceil(BLOCKS_OF_PAGE as u64) < most
            && leaves <= most
            && rows.div_ceil(ROWS_OF_PAGE as u64) == leaves;
        if !sound {
            return Err(damaged("header"));
        }
        let first_leaf = 1 + blocks.div_ceil(BLOCKS_OF_PAGE as u64);
        let mut levels = Vec::new();
        let (mut first, mut below) = (first_leaf + leaves, leaves);
        while below > 1 {
            below = below.div_ceil(FENCES_OF_PAGE as u64);
            levels.push((first, below));
            first += below;
        }
        if first > most {
            return Err(damaged("end"));
        }
        Ok(Self {
            file,
            number: memory.number(),
            memory,
            rows,
            blocks,
            first_leaf,
            levels,
            leaves,
        })
    }

    /// Number of rows.
    pub(super) fn len(&self) -> u64 {
        self.rows
    }

    fn page(&self, number: u64) -> io::Result<Arc<[u8]>> {
        self.memory
            .page((self.number, number), || read_page(&*self.file, number))
    }

    /// Whether it is worth looking for a digest.
    pub(super) fn may_hold(&self, digest: &Digest) -> io::Result<bool> {
        let block = block(digest, self.blocks);
        let page = self.page(1 + block / BLOCKS_OF_PAGE as u64)?;
        let start = (block % BLOCKS_OF_PAGE as u64) as usize * BLOCK;
        let block = &page[start..start + BLOCK];
        Ok(bits(digest).all(|(byte, mask)| block[byte] & mask != 0))
    }

    /// The row of a digest, whatever the filter says of it.
    pub(super) fn find(&self, digest: &Digest) -> io::Result<Option<Row>> {
        // the pages of a level that may lead to it, from the top down to the leaves
        let mut pages = 0..self.leaves.min(1);
        for (at, (first, _)) in self.levels.iter().enumerate().rev() {
            let below = at.checked_sub(1).map_or(self.leaves, |b| self.levels[b].1);
            pages = self.below(*first, pages, below, place(digest))?;
        }
        for leaf in pages {
            let page = self.page(self.first_leaf + leaf)?;
            let row = search(&page[..self.rows_of(leaf) * ROW], digest);
            if row.is_some() {
                return Ok(row);
            }
        }
        Ok(None)
    }

    /// Which of the `below` pages below these of a level may hold what belongs at `place`: the last
    /// that begins before it, and all that begin with it.
    fn below(
        &self,
        first: u64,
        pages: Range<u64>,
        below: u64,
        place: u64,
    ) -> io::Result<Range<u64>> {
        let mut found: Option<Range<u64>> = None;
        for number in pages {
            let base = number * FENCES_OF_PAGE as u64;
            let count = (below - base).min(FENCES_OF_PAGE as u64) as usize;
            let page = self.page(first + number)?;
            let (fences, _) = page[..8 * count].as_chunks::<8>();
            let fence = |f: &[u8; 8]| u64::from_le_bytes(*f);
            let from = fences
                .partition_point(|f| fence(f) < place)
                .saturating_sub(1);
            let to = fences.partition_point(|f| fence(f) <= place);
            let (from, to) = (base + from as u64, base + to as u64);
            if from < to {
                found = Some(found.map_or(from, |f| f.start)..to);
            }
        }
        Ok(found.unwrap_or(0..0))
    }

    fn rows_of(&self, leaf: u64) -> usize {
        (self.rows - leaf * ROWS_OF_PAGE as u64).min(ROWS_OF_PAGE as u64) as usize
    }

    /// Reads every page, past the memory.
    pub(super) fn check(&self) -> io::Result<()> {
        let pages = self
            .levels
            .last()
            .map_or(self.first_leaf + self.leaves, |(first, n)| first + n);
        let batch = (BATCH / PAGE) as u64;
        for first in (0..pages).step_by(batch as usize) {
            let length = (pages - first).min(batch) as usize * PAGE;
            let bytes = crate::storage::read_exact(&*self.file, first * PAGE as u64, length)?;
            bytes.chunks_exact(PAGE).try_for_each(sound)?;
        }
        Ok(())
    }

    /// All rows in order, past the memory.
    pub(super) fn rows(&self) -> Rows<'_> {
        Rows {
            run: self,
            leaf: 0,
            batch: Vec::new().into_iter(),
            failed: false,
        }
    }
}

fn read_page(file: &dyn File, number: u64) -> io::Result<Arc<[u8]>> {
    let mut page = vec![0; PAGE];
    if file.read_at(&mut page, number * PAGE as u64)? != PAGE {
        return Err(damaged("end"));
    }
    sound(&page)?;
    Ok(page.into())
}

fn sound(page: &[u8]) -> io::Result<()> {
    let (content, check) = page.split_at(PAGE - CHECK);
    if check_of(content) == check {
        Ok(())
    } else {
        Err(damaged("page"))
    }
}

/// See [`Run::rows`]; ends after an error.
pub(super) struct Rows<'a> {
    run: &'a Run,
    leaf: u64,
    batch: std::vec::IntoIter<Row>,
    failed: bool,
}

impl Rows<'_> {
    fn read(&mut self) -> io::Result<()> {
        let count = (self.run.leaves - self.leaf).min((BATCH / PAGE) as u64);
        let at = (self.run.first_leaf + self.leaf) * PAGE as u64;
        let bytes = crate::storage::read_exact(&*self.run.file, at, count as usize * PAGE)?;
        let mut rows = Vec::with_capacity(count as usize * ROWS_OF_PAGE);
        for page in bytes.chunks_exact(PAGE) {
            sound(page)?;
            let (found, _) = page[..self.run.rows_of(self.leaf) * ROW].as_chunks::<ROW>();
            for row in found {
                rows.push(Row::decode(row).ok_or_else(|| damaged("row"))?);
            }
            self.leaf += 1;
        }
        self.batch = rows.into_iter();
        Ok(())
    }
}

impl Iterator for Rows<'_> {
    type Item = io::Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.batch.next() {
                return Some(Ok(row));
            }
            if self.failed || self.leaf == self.run.leaves {
                return None;
            }
            if let Err(error) = self.read() {
                self.failed = true;
                return Some(Err(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::super::row::State;
    use super::*;
    use crate::storage::Storage;
    use crate::storage::simulated::Simulated;
    use format::frame::Kind;
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    const DATASTORE: DatastoreId = DatastoreId([7; 16]);

    fn row(digest: [u8; 32]) -> Row {
        let place = Place {
            pack: digest[31].into(),
            offset: 64,
            length: 100,
            plain_len: 200,
            kind: Kind::Data,
        };
        Row {
            digest: Digest(digest),
            state: State::At(place),
            references: -3,
        }
    }

    /// A digest as good as random, the same for the same number.
    fn spread(number: u64) -> [u8; 32] {
        *blake3::hash(&number.to_le_bytes()).as_bytes()
    }

    fn run(rows: &[Row], most: u64) -> io::Result<(Simulated, Run)> {
        let storage = Simulated::new();
        let file = storage.create("run")?;
        let mut builder = Builder::new(&*file, DATASTORE, most);
        rows.iter().try_for_each(|row| builder.push(row))?;
        builder.finish()?;
        let run = Run::open(file, DATASTORE, Memory::new(1 << 20))?;
        Ok((storage, run))
    }

    fn sorted(mut digests: Vec<[u8; 32]>) -> Vec<Row> {
        digests.sort_unstable();
        digests.into_iter().map(row).collect()
    }

    #[test]
    fn rows_are_found_and_others_mostly_not_looked_for() {
        // leaves, a level of fences, and one above
        let rows = sorted((0..60_000).map(spread).collect());
        let (_, run) = run(&rows, 70_000).unwrap();
        assert_eq!(run.levels.len(), 2);
        for row in &rows {
            assert_eq!(run.find(&row.digest).unwrap(), Some(*row));
        }
        let others = (0..20_000).map(|n| Digest(spread(1 << 40 | n)));
        let (mut found, mut in_vain) = (0, 0);
        for other in others {
            found += usize::from(run.find(&other).unwrap().is_some());
            in_vain += usize::from(run.may_hold(&other).unwrap());
        }
        assert_eq!(found, 0);
        assert!(in_vain < 20_000 / 50, "{in_vain}");
        let all: io::Result<Vec<Row>> = run.rows().collect();
        assert_eq!(all.unwrap(), rows);
    }

    #[test]
    fn a_run_without_rows_has_none() {
        let (_, run) = run(&[], 0).unwrap();
        assert_eq!(run.find(&Digest([3; 32])).unwrap(), None);
        assert_eq!(run.rows().count(), 0);
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let rows = sorted((0..300).map(spread).collect());
        let (storage, whole) = run(&rows, 300).unwrap();
        let length = whole.file.len().unwrap() as usize;
        for at in (0..length).step_by(37) {
            storage.tamper("run", |bytes| bytes[at] ^= 0x10);
            let file = storage.open("run").unwrap();
            let looked = Run::open(file, DATASTORE, Memory::new(1 << 20)).and_then(|run| {
                assert!(run.check().is_err(), "byte {at}");
                for row in &rows {
                    run.may_hold(&row.digest)?;
                    run.find(&row.digest)?;
                }
                run.rows().collect::<io::Result<Vec<_>>>()
            });
            assert!(looked.is_err(), "byte {at}");
            storage.tamper("run", |bytes| bytes[at] ^= 0x10);
        }
    }

    #[test]
    fn a_run_that_was_cut_off_or_is_foreign_is_refused() {
        let rows = sorted((0..300).map(spread).collect());
        let (storage, whole) = run(&rows, 300).unwrap();
        let file = whole.file.clone();
        assert!(Run::open(file, DatastoreId([8; 16]), Memory::new(1 << 20)).is_err());
        storage.tamper("run", |bytes| bytes.truncate(bytes.len() - PAGE));
        let file = storage.open("run").unwrap();
        assert!(Run::open(file, DATASTORE, Memory::new(1 << 20)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Digests of somebody who chooses them so that they share their beginning.
        #[test]
        fn digests_that_share_their_beginning_are_found(
            tails in btree_set(any::<[u8; 3]>(), 1..2000),
            beginnings in 1u8..5,
        ) {
            let digest = |tail: &[u8; 3]| {
                let mut digest = [0; 32];
                digest[7] = tail[2] % beginnings;
                digest[29..].copy_from_slice(tail);
                digest
            };
            let rows = sorted(tails.iter().map(digest).collect());
            let (_, run) = run(&rows, rows.len() as u64).unwrap();
            for row in &rows {
                prop_assert_eq!(run.find(&row.digest).unwrap(), Some(*row));
            }
            let absent = Digest([0xff; 32]);
            prop_assert_eq!(run.find(&absent).unwrap(), None);
        }
    }
}
