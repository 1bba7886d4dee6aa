//! Chunk, deduplicate, pack, commit, restore, verify, over a Storage trait.
//!
//! A [`Store`] is one open datastore. Backups go in by a [`SnapshotWriter`], come back by
//! [`Store::restore`], [`Entries`] and [`Pieces`]; frames travel between copies of a datastore without a key by
//! [`Store::has`], [`Store::put_frame`] and [`Store::put_snapshot`], and all at once by
//! [`Store::copy_to`]. docs/format.md has every byte, the module `ingest` says what keeps the whole
//! consistent after a power cut.
//!
//! What may go on at the same time, from any threads of the one process that holds the datastore. A copy
//! takes frames into one datastore, as a backup does, and reads the other as a restore does; what is
//! mounted is a [`View`].
//!
//! | | backup, copy into it | restore, list, mount, copy out of it | verify | forget | lock | collect | repair |
//! |---|---|---|---|---|---|---|---|
//! | backup, copy into it | one pipeline shared; a digest is claimed once | reads what is durable and indexed | reads packs that have their final name only | a snapshot that is being made is no file yet | likewise | holds: what a backup found stays until it ends; what is condemned it stores anew | heals by the same pipeline; what is marked broken both store anew, and the first to claim it does |
//! | restore, list, mount, copy out of it | | no state shared but open files | both only read | one that was begun is held; a later one finds no snapshot | reads no locks | held likewise, a mount until it ends; a frame that was moved is looked up again | a frame that was moved or healed is looked up again; a snapshot's file is replaced by a rename |
//! | verify | | | both only mark broken chunks | what is forgotten meanwhile is passed over | a lock's file is replaced by a rename | held likewise; a pack that is gone is passed over | held likewise; what is healed after it was found damaged is stored anew once more |
//! | forget | | | | the second finds no snapshot | one after the other: it is refused, or the lock finds no snapshot | counted by the next look at the directory, before anything is buried | what is forgotten meanwhile is passed over, and its file not brought back |
//! | lock | | | | | one after the other: the second only moves it later | what can be locked has its file, which keeps its chunks | likewise: only one whose file was gone before is brought back for its lock |
//! | collect | | | | | | one waits for the other | held until all is healed; then one waits for the other to give up packs |
//! | repair | | | | | | | both heal by one pipeline; packs are given up one after the other |
//!
//! Another process is kept out by the storage's lock.

pub mod clock;
mod collect;
mod compress;
mod contained;
mod copy;
mod core;
mod error;
mod forget;
mod holds;
mod index;
mod ingest;
mod memory;
mod pack;
mod progress;
mod queue;
mod read;
mod recover;
mod repair;
mod replica;
mod restore;
mod retention;
mod sources;
pub mod storage;
mod store;
mod tree;
mod verify;
mod view;
mod writer;

pub use crate::collect::Collected;
pub use crate::contained::Contained;
pub use crate::core::Options;
pub use copy::{Copied, Lacking};
pub use error::{Error, Result};
pub use holds::Hold;
pub use index::{IndexSize, Totals};
pub use memory::Memory;
pub use progress::{Counts, Progress};
pub use read::{Entries, Piece, Pieces, SnapshotInfo};
pub use repair::Repaired;
pub use restore::{Target, TargetFile};
pub use retention::{Keep, Verdict};
pub use store::{Stats, Store, Unreadable};
pub use tree::LongContent;
pub use verify::{Lost, Report};
pub use view::{Kept, Seen, View};
pub use writer::{Chunks, Signer, SnapshotMeta, SnapshotWriter};
