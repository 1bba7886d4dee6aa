//! Whole block devices: which there are, what is on them, and word when that changes (udev).

mod sys;
mod system;
mod udev;

pub use udev::{Udev, Watch};

use std::path::PathBuf;

/// Why the devices could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// udev or sysfs did not answer.
    #[error("{0} failed; see whether systemd-udevd runs")]
    Io(&'static str, #[source] std::io::Error),
}

/// A whole block device. Arrays, mappings, loop devices, RAM disks and optical drives are left
/// out, and drives without a medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its node, `/dev/sda`.
    pub path: PathBuf,
    /// Its serial number as the drive says it; empty when it says none.
    pub serial: String,
    /// Its model; empty when it says none.
    pub model: String,
    /// Bytes.
    pub size: u64,
    /// Whether the running system is on it: it holds /, /usr, /var, /boot or /efi.
    pub system: bool,
    /// Whether it is made to be carried away: on USB, or with a removable medium.
    pub removable: bool,
    /// Whether it takes no writes.
    pub read_only: bool,
    /// What is on it.
    pub content: Content,
}

/// What is on a disk, as udev probed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing anybody knows.
    Blank,
    /// A file system or a member of something, directly on the disk.
    Signature {
        /// As blkid names it: `xfs`, `crypto_LUKS`, `linux_raid_member`.
        kind: String,
        /// Its label; of an md member, the array's name. May be empty.
        label: String,
        /// Its UUID; of an md member, the array's. May be empty.
        uuid: String,
    },
    /// A partition table of this kind (`gpt`, `dos`), or partitions without one.
    Partitions(String),
    /// No signature, and still in use, by this mapping or array.
    Held(String),
    /// udev has not looked yet.
    Unknown,
}

impl Content {
    /// What is on it, for a person: `xfs "photos"`, `gpt partitions`, `nothing`.
    pub fn describe(&self) -> String {
        match self {
            Content::Blank => "nothing".into(),
            Content::Signature { kind, label, .. } if label.is_empty() => kind.clone(),
            Content::Signature { kind, label, .. } => format!("{kind} \"{label}\""),
            Content::Partitions(kind) => format!("{kind} partitions"),
            Content::Held(by) => format!("used by {by}"),
            Content::Unknown => "not looked at yet".into(),
        }
    }
}

/// Where disks are learned from; the seam for tests.
pub trait Source: Send {
    /// All whole disks, by path.
    fn disks(&self) -> Result<Vec<Disk>, Error>;
}
