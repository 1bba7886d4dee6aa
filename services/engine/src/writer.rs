//! One backup on its way in.

use crate::compress::Packer;
use crate::core::{Core, Keys, SNAPSHOTS, random};
use crate::error::{Error, Result, format_error};
use crate::holds::Hold;
use crate::ingest::{Ingest, Tools};
use crate::progress::Progress;
use crate::read::SnapshotInfo;
use crate::tree::{LongContent, Sink, TreeBuilder};
use format::entry::{Entry, Extent, Timestamp};
use format::frame::{FrameKeys, MAX_PLAIN, check_at_end};
use format::leaf::Content;
use format::node::Child;
use format::snapshot::{Clear, Details, MAX_PROBLEMS, Problem, Snapshot, Unsigned};
use format::{Digest, SnapshotId};
use std::sync::Arc;

/// Signs snapshots; the key lives elsewhere (keyd).
pub trait Signer {
    /// The Ed25519 public key.
    fn public(&self) -> [u8; 32];
    /// The signature over `strongroom manifest v1`, NUL and this hash.
    ///
    /// # Errors
    /// A sentence.
    fn sign(&self, hash: &[u8; 32]) -> std::result::Result<[u8; 64], String>;
}

/// What a backup is of.
#[derive(Clone, Debug, Default)]
pub struct SnapshotMeta {
    /// When it began.
    pub time: Timestamp,
    /// The snapshot that it follows, if any.
    pub parent: Option<SnapshotId>,
    /// The part that is encrypted; problems are added by [`SnapshotWriter::problem`].
    pub details: Details,
}

/// Stores chunks of a backup that runs, in the thread that has it.
pub struct Chunks {
    core: Arc<Core>,
    ingest: Arc<Ingest>,
    keys: Arc<Keys>,
    progress: Arc<Progress>,
    /// Made when the first chunk comes.
    tools: Option<Tools>,
}

impl Chunks {
    /// Stores a chunk of at most 4 MiB unless it is there, and answers its digest. It is durable
    /// with the commit.
    ///
    /// # Errors
    /// The pipeline's first failure: a full disk, an I/O error.
    pub fn put(&mut self, content: &[u8]) -> Result<Digest> {
        self.progress.check()?;
        check_length(content)?;
        let tools = match &mut self.tools {
            Some(tools) => tools,
            None => self.tools.insert(Tools::new(&self.core)?),
        };
        self.ingest
            .put_data_here(&self.keys, &self.progress, tools, content)
    }

    /// See [`SnapshotWriter::known`].
    ///
    /// # Errors
    /// As there.
    pub fn known(&self, digest: &Digest) -> Result<bool> {
        self.ingest.known(digest)
    }

    /// Counts bytes of the source gone through.
    pub fn add_bytes(&self, count: u64) {
        self.progress.add_bytes(count);
    }
}

fn check_length(content: &[u8]) -> Result<()> {
    if content.len() <= MAX_PLAIN {
        return Ok(());
    }
    let source = format::FormatError::Field {
        what: "chunk",
        field: "length",
    };
    Err(Error::Format {
        name: "a chunk".into(),
        source,
    })
}

/// A backup that runs. Dropped before [`SnapshotWriter::commit`], nothing of it is visible; its
/// chunks stay for the next one to find.
pub struct SnapshotWriter {
    core: Arc<Core>,
    ingest: Arc<Ingest>,
    keys: Arc<Keys>,
    progress: Arc<Progress>,
    packer: Packer,
    tree: TreeBuilder,
    meta: SnapshotMeta,
    _hold: Hold,
}

impl SnapshotWriter {
    pub(crate) fn begin(
        core: Arc<Core>,
        ingest: Arc<Ingest>,
        meta: SnapshotMeta,
        progress: Arc<Progress>,
    ) -> Result<Self> {
        let keys = core.keys()?;
        let packer = Packer::new(core.options.level).map_err(core.io("compress for", "packs"))?;
        let hold = core.hold()?;
        Ok(Self {
            _hold: hold,
            core,
            ingest,
            keys,
            progress,
            packer,
            tree: TreeBuilder::default(),
            meta,
        })
    }

    /// As [`Chunks::put`], the work done by threads of the datastore's.
    ///
    /// # Errors
    /// As there.
    pub fn put_chunk(&self, content: &[u8]) -> Result<Digest> {
        self.progress.check()?;
        check_length(content)?;
        self.ingest.put_data(&self.keys, &self.progress, content)
    }

    /// A way to store chunks from another thread while entries are added here.
    pub fn chunks(&self) -> Chunks {
        Chunks {
            core: self.core.clone(),
            ingest: self.ingest.clone(),
            keys: self.keys.clone(),
            progress: self.progress.clone(),
            tools: None,
        }
    }

    /// Seed with which to cut what is backed up ([`chunking::Cutter::new`]).
    pub fn cut_seed(&self) -> u64 {
        self.keys.digests.cut_seed()
    }

    /// The digest this datastore has for a chunk, stored or not.
    pub fn digest_of(&self, content: &[u8]) -> Digest {
        self.keys.digests.data(content)
    }

    /// Whether an entry may refer to this chunk without its being put.
    ///
    /// # Errors
    /// The index failed.
    pub fn known(&self, digest: &Digest) -> Result<bool> {
        self.ingest.known(digest)
    }

    /// A key for what is kept outside the datastore about what is in it.
    pub fn memory_key(&self) -> [u8; 32] {
        self.keys.digests.memory_key()
    }

    /// The tree and where its frames go.
    fn parts(&mut self) -> (&mut TreeBuilder, Sink<'_>) {
        let sink = Sink {
            ingest: &self.ingest,
            keys: &self.keys,
            progress: &self.progress,
            packer: &mut self.packer,
        };
        (&mut self.tree, sink)
    }

    /// Adds the next entry in the order of paths; its extents name chunks put before, or known.
    /// Answers the leaf that ends with it, which holds this entry and those since the one before.
    ///
    /// # Errors
    /// An entry out of order or out of bounds; a chunk that is not there; the pipeline's failure.
    pub fn add_entry(&mut self, entry: &Entry) -> Result<Option<Child>> {
        self.progress.check()?;
        self.progress.add_files(1);
        let (tree, mut sink) = self.parts();
        tree.add(&mut sink, entry)
    }

    /// Stores where the next bytes of a file's content are, whose chunks were put before, or known.
    ///
    /// # Errors
    /// An extent out of bounds; a chunk that is not there; the pipeline's failure.
    pub fn extend(
        &mut self,
        content: &mut LongContent,
        extents: impl IntoIterator<Item = Extent>,
    ) -> Result<()> {
        self.progress.check()?;
        let (_, mut sink) = self.parts();
        extents
            .into_iter()
            .try_for_each(|extent| content.push(&mut sink, extent))
    }

    /// Adds the next entry with content that was stored by [`SnapshotWriter::extend`], which says its
    /// size; else as [`SnapshotWriter::add_entry`].
    ///
    /// # Errors
    /// As there.
    pub fn add_long(&mut self, entry: &mut Entry, content: LongContent) -> Result<Option<Child>> {
        self.progress.check()?;
        self.progress.add_files(1);
        let (tree, mut sink) = self.parts();
        tree.add_long(&mut sink, entry, content)
    }

    /// Adds the next entry with content that is in the datastore, `bytes` of it without its holes,
    /// as [`SnapshotWriter::add_entry`].
    ///
    /// # Errors
    /// As there.
    pub fn add_kept(
        &mut self,
        entry: &Entry,
        content: &Content,
        bytes: u64,
    ) -> Result<Option<Child>> {
        self.progress.check()?;
        self.progress.add_files(1);
        let (tree, mut sink) = self.parts();
        tree.add_kept(&mut sink, entry, content, bytes)
    }

    /// Adds a leaf of an earlier snapshot with all its entries, if one may begin here and it is known;
    /// says whether.
    ///
    /// # Errors
    /// The pipeline's failure.
    pub fn add_leaf(&mut self, leaf: &Child) -> Result<bool> {
        self.progress.check()?;
        if !self.tree.is_between_leaves() || !self.known(&leaf.digest)? {
            return Ok(false);
        }
        self.progress.add_files(leaf.entries);
        let (tree, mut sink) = self.parts();
        tree.add_leaf(&mut sink, leaf.clone())?;
        Ok(true)
    }

    /// The entries of a leaf of an earlier snapshot.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn entries_of(&self, leaf: &Digest) -> Result<Vec<(Entry, Content)>> {
        self.core.read_leaf(&self.keys, leaf)
    }

    /// Ends the tree before the commit, and answers the last leaf if entries were left for one.
    ///
    /// # Errors
    /// As [`SnapshotWriter::add_entry`].
    pub fn end(&mut self) -> Result<Option<Child>> {
        let (tree, mut sink) = self.parts();
        tree.end(&mut sink)
    }

    /// Notes a file that was skipped or changed while it was read.
    pub fn problem(&mut self, path: &[u8], text: &str) {
        let details = &mut self.meta.details;
        details.problem_count += 1;
        if details.problems.len() < MAX_PROBLEMS {
            details.problems.push(Problem {
                path: path.to_vec(),
                text: text.to_owned(),
            });
        }
    }

    /// The counters of this backup.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Makes the snapshot durable and visible: when this returns it survives a power cut.
    ///
    /// # Errors
    /// The pipeline's failure, or the signer's; then the snapshot does not exist. One whose name could
    /// not be made durable is removed again as far as the disk lets; else it may be found, but whole.
    pub fn commit(mut self, signer: Option<&dyn Signer>) -> Result<SnapshotInfo> {
        self.progress.check()?;
        let mut sink = Sink {
            ingest: &self.ingest,
            keys: &self.keys,
            progress: &self.progress,
            packer: &mut self.packer,
        };
        let built = self.tree.finish(&mut sink)?;
        self.ingest.flush()?;
        let root = self.core.read_frame(&built.root)?;
        let counts = self.progress.counts();
        let id = SnapshotId(random()?);
        let clear = Clear {
            datastore: self.core.datastore,
            id,
            group: self.keys.digests.group(self.meta.details.group.as_bytes()),
            time: self.meta.time,
            root: built.root,
            root_check: check_at_end(&root).map_err(format_error("the tree's root"))?,
            logical: built.bytes,
            entries: built.entries,
            unique: counts.unique,
            stored: counts.stored,
            lock_until: 0,
            parent: self.meta.parent,
            signer: signer.map(Signer::public),
        };
        let bytes = sealed(&clear, &self.meta.details, &self.keys.frames, signer)?;
        let length = bytes.len() as u64;
        self.core
            .write_whole(SNAPSHOTS, &crate::read::snapshot_name(id), &bytes)
            .inspect_err(|_| self.core.take_back(id))?;
        self.progress.add_stored(length);
        let snapshot = Snapshot::parse(bytes).map_err(format_error(format!("snapshot {id}")))?;
        Ok(SnapshotInfo {
            clear: snapshot.clear,
            details: Some(self.meta.details),
        })
    }
}

fn sealed(
    clear: &Clear,
    details: &Details,
    keys: &FrameKeys,
    signer: Option<&dyn Signer>,
) -> Result<Vec<u8>> {
    let unsigned = Unsigned::new(clear, details, keys, random()?)
        .map_err(format_error(format!("snapshot {}", clear.id)))?;
    let signature = match signer {
        Some(signer) => Some(
            signer
                .sign(&unsigned.message())
                .map_err(|reason| Error::Sign { reason })?,
        ),
        None => None,
    };
    Ok(unsigned.finish(signature))
}
