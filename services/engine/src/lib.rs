//! Chunk, deduplicate, pack, commit, restore, verify, over a Storage trait.
//!
//! A [`Store`] is one open datastore. Backups go in by a [`SnapshotWriter`], come back by
//! [`Entries`] and [`Pieces`]; frames travel between copies of a datastore without a key by
//! [`Store::has`], [`Store::put_frame`] and [`Store::put_snapshot`], and all at once by
//! [`Store::copy_to`]. docs/format.md has every byte, the module `ingest` says what keeps the whole
//! consistent after a power cut.
//!
//! What may go on at the same time, from any threads of the one process that holds the datastore:
//!
//! | | backup | restore, list | verify | taking frames |
//! |---|---|---|---|---|
//! | backup | one pipeline shared; a digest is claimed once | reads what is durable and indexed | reads packs that have their final name only | as backup |
//! | restore, list | | no state shared but open files | | |
//! | verify | | | both only mark broken chunks | |
//!
//! Another process is kept out by the storage's lock.

mod compress;
mod contained;
mod copy;
mod core;
mod error;
mod index;
mod ingest;
mod memory;
mod progress;
mod queue;
mod read;
mod recover;
mod repair;
mod replica;
mod sources;
pub mod storage;
mod store;
mod stream;
mod tree;
mod verify;
mod view;
mod writer;

pub use crate::contained::Contained;
pub use crate::core::Options;
pub use copy::Copied;
pub use error::{Error, Result};
pub use index::{IndexSize, Totals};
pub use memory::Memory;
pub use progress::{Counts, Progress};
pub use read::{Entries, Piece, Pieces, SnapshotInfo};
pub use repair::Repaired;
pub use store::{Stats, Store, Unreadable};
pub use stream::{Contents, Item};
pub use verify::Report;
pub use view::{Kept, Seen, View};
pub use writer::{Chunks, Signer, SnapshotMeta, SnapshotWriter};
