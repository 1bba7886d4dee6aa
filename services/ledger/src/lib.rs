//! Small durable state: generation, checksum, atomic replace.
//!
//! One value of `T` in one file, written whole. Three names lie side by side:
//!
//! | name | holds |
//! |---|---|
//! | `NAME` | the newest generation |
//! | `NAME.prev` | the one before it |
//! | `NAME.new` | a write under way; worthless once the process that made it is gone |
//!
//! and `NAME.corrupt`, the last newest that could not be read, kept for people. A file is one line
//! `strongroom-ledger 1 GENERATION CHECK` and then the value as JSON; CHECK is BLAKE3 over the
//! generation (u64, little endian) and the JSON, in hexadecimal digits.
//!
//! `save` has happened when it returns; interrupted anywhere, the value is the old or the new one,
//! whole. *Absent* (never saved) and *corrupt* are different answers. Only one process may hold a
//! ledger open.

mod disk;

use disk::{Disk, RealDisk};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

const MAGIC: &str = "strongroom-ledger 1 ";
/// Longest file read or written, bytes.
pub const MAX_LEN: u64 = 64 << 20;

/// Why a ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filesystem refused.
    #[error("cannot {doing} {}; check the disk and the permissions of that folder", path.display())]
    Io {
        /// What was being done ("read", "write").
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is state, and neither generation of it can be read.
    #[error("{} is damaged ({why}), and so is or missing the generation before it; remove both to start anew without what they held", path.display())]
    Corrupt {
        /// The newest generation's file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The checksum fits, the content is not what this program writes.
    #[error("{} was written by another release of this program; update this one", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// What did not fit.
        source: serde_json::Error,
    },
    /// The value is larger than [`MAX_LEN`].
    #[error("{} would become larger than {} MiB and was left as it was; it should never, so take back what was last added and report it", path.display(), MAX_LEN >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// What [`Ledger::open`] found.
#[derive(Debug)]
pub struct Loaded<T> {
    /// To save with.
    pub ledger: Ledger<T>,
    /// The value; None when nothing was ever saved.
    pub state: Option<T>,
    /// Set when the newest generation could not be read and `state` is the one before it: one
    /// sentence for the log and the operator.
    pub recovered: Option<String>,
}

/// A ledger that was opened.
#[derive(Debug)]
pub struct Ledger<T> {
    path: PathBuf,
    generation: u64,
    /// Whether the file of the newest generation is worth keeping as the previous one.
    newest_good: bool,
    value: PhantomData<fn(T) -> T>,
}

enum Read<T> {
    Absent,
    Corrupt(String),
    Good(u64, T),
}

impl<T: Serialize + DeserializeOwned> Ledger<T> {
    /// Reads the ledger at `path`. Its folder must exist; the file need not.
    pub fn open(path: impl Into<PathBuf>) -> Result<Loaded<T>, Error> {
        let path = path.into();
        let loaded = |path, generation, newest_good, state, recovered| Loaded {
            ledger: Ledger {
                path,
                generation,
                newest_good,
                value: PhantomData,
            },
            state,
            recovered,
        };
        let why = match read(&path)? {
            Read::Good(generation, state) => {
                return Ok(loaded(path, generation, true, Some(state), None));
            }
            Read::Absent => None,
            Read::Corrupt(why) => Some(why),
        };
        match (why, read(&beside(&path, "prev"))?) {
            (None, Read::Absent) => Ok(loaded(path, 0, false, None, None)),
            (why, Read::Good(generation, state)) => {
                let told = format!(
                    "{} is {}; went back to generation {generation}, and what was saved after it is lost",
                    path.display(),
                    why.unwrap_or_else(|| "missing".into()),
                );
                Ok(loaded(path, generation, false, Some(state), Some(told)))
            }
            (why, _) => Err(Error::Corrupt {
                why: why.unwrap_or_else(|| "missing".into()),
                path,
            }),
        }
    }

    /// Replaces the value; answers its generation. On an error the old value is still what
    /// [`Ledger::open`] finds.
    pub fn save(&mut self, state: &T) -> Result<u64, Error> {
        self.save_on(&RealDisk, state)
    }

    /// How many times it was saved; 0 before the first time.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The file of the newest generation.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn save_on(&mut self, disk: &impl Disk, state: &T) -> Result<u64, Error> {
        let generation = self.generation + 1;
        let io = |source| Error::Io {
            doing: "write",
            path: self.path.clone(),
            source,
        };
        let body = serde_json::to_vec_pretty(state).map_err(|e| io(e.into()))?;
        let bytes = [header(generation, &body).as_bytes(), b"\n", &body].concat();
        if bytes.len() as u64 > MAX_LEN {
            return Err(Error::TooLarge {
                path: self.path.clone(),
            });
        }
        let new = beside(&self.path, "new");
        disk.write_synced(&new, &bytes).map_err(io)?;
        // the newest stays under its own name until the rename, so no moment lacks a whole one;
        // a newest that cannot be read never displaces a previous that can
        let kept = if self.newest_good { "prev" } else { "corrupt" };
        disk.link_over(&self.path, &beside(&self.path, kept))
            .map_err(io)?;
        disk.rename_synced(&new, &self.path).map_err(io)?;
        self.generation = generation;
        self.newest_good = true;
        Ok(generation)
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn header(generation: u64, body: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&generation.to_le_bytes()).update(body);
    format!("{MAGIC}{generation} {}", hasher.finalize().to_hex())
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Read<T>, Error> {
    let bytes = match disk::read_bounded(path, MAX_LEN) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Read::Absent),
        Err(source) => {
            return Err(Error::Io {
                doing: "read",
                path: path.to_owned(),
                source,
            });
        }
    };
    if bytes.len() as u64 > MAX_LEN {
        return Ok(Read::Corrupt("longer than any we write".into()));
    }
    let Some((generation, body)) = verified(&bytes) else {
        return Ok(Read::Corrupt("its checksum does not fit".into()));
    };
    match serde_json::from_slice(body) {
        Ok(state) => Ok(Read::Good(generation, state)),
        Err(source) => Err(Error::Shape {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Generation and JSON of a file whose first line fits the rest exactly.
fn verified(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().take(128).position(|b| *b == b'\n')?;
    let (line, body) = (std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]);
    let (generation, _) = line.strip_prefix(MAGIC)?.split_once(' ')?;
    let generation = generation.parse().ok()?;
    // comparing the whole line leaves no second spelling of the same header
    (line == header(generation, body)).then_some((generation, body))
}

#[cfg(test)]
mod tests;
