//! Making a pool: which disks in which layout, and the steps, each of which can be the last before
//! a power cut.

use crate::name::PoolId;
use crate::view::MAPPING;
use contract::Error;
use devices::{Content, Disk};
use disks::md::Level;
use disks::{Machine, luks, md, probe, xfs};
use std::collections::BTreeSet;
use zeroize::Zeroizing;

/// A pool's key.
pub type Key = Zeroizing<[u8; luks::KEY_LEN]>;

/// The layout for this many disks: None is a single disk without md.
pub fn layout(disks: usize) -> Option<Level> {
    match disks {
        0 | 1 => None,
        2 => Some(Level::Raid1),
        3 | 4 => Some(Level::Raid5),
        _ => Some(Level::Raid6),
    }
}

/// A disk smaller than this is not taken unless it is named: XFS would not fit.
const SMALLEST: u64 = 512 << 20;

/// The nodes of the disks to make a pool of: those of these serials, or every blank one that is
/// built in, takes writes and has room.
pub fn choose(disks: &[Disk], serials: &[String]) -> Result<Vec<String>, Error> {
    let path = |disk: &Disk| disk.path.to_string_lossy().into_owned();
    if serials.is_empty() {
        let blank: Vec<_> = disks
            .iter()
            .filter(|d| !d.system && d.content == Content::Blank)
            .filter(|d| !d.removable && !d.read_only && d.size >= SMALLEST)
            .map(path)
            .collect();
        return if blank.is_empty() {
            Err(Error::NotFound(
                "there is no blank built-in disk to make a pool of; put one in, or wipe one whose data may go".into(),
            ))
        } else {
            Ok(blank)
        };
    }
    if serials.iter().collect::<BTreeSet<_>>().len() < serials.len() {
        return Err(Error::InvalidArgument(
            "a serial number is named twice".into(),
        ));
    }
    serials
        .iter()
        .map(|serial| {
            let mut found = disks
                .iter()
                .filter(|d| d.serial == *serial && !serial.is_empty());
            match (found.next(), found.next()) {
                (Some(disk), None) if disk.system => Err(Error::DiskInUse(format!(
                    "the disk {serial} holds the system itself; name another"
                ))),
                (Some(disk), None) if disk.read_only => Err(Error::DiskInUse(format!(
                    "the disk {serial} is write-protected; name another"
                ))),
                (Some(disk), None) if disk.content == Content::Blank => Ok(path(disk)),
                (Some(disk), None) => Err(in_use(serial, &disk.content.describe())),
                (Some(_), Some(_)) => Err(Error::InvalidArgument(format!(
                    "several disks say they are {serial}; take all but one out"
                ))),
                (None, _) => Err(Error::NotFound(format!(
                    "there is no disk {serial}; compare the number with the one on the disk, and see that it is plugged in"
                ))),
            }
        })
        .collect()
}

fn in_use(disk: &str, what: &str) -> Error {
    Error::DiskInUse(format!(
        "the disk {disk} is not blank ({what}); plug in another, or wipe this one if its data may go"
    ))
}

/// Refuses when a disk that udev called blank is not.
pub fn confirm_blank(machine: &dyn Machine, disks: &[String]) -> Result<(), Error> {
    for disk in disks {
        if let Some(found) = probe::probe(machine, disk).map_err(told)? {
            return Err(in_use(disk, &format!("{} {}", found.kind, found.label)));
        }
    }
    Ok(())
}

/// Makes the array, when the layout has one; answers the node the volume goes on.
pub fn make_array(machine: &dyn Machine, pool: &PoolId, disks: &[String]) -> Result<String, Error> {
    let nodes: Vec<_> = disks.iter().map(String::as_str).collect();
    let Some(level) = layout(nodes.len()) else {
        return nodes
            .first()
            .map(|node| (*node).to_owned())
            .ok_or_else(|| Error::InvalidArgument("a pool needs a disk".into()));
    };
    let node = md::free_node(machine).map_err(told)?;
    md::create(machine, &node, pool.as_str(), level, &nodes).map_err(told)?;
    Ok(node)
}

/// Makes the volume and the file system on `device` and leaves the volume open. What an earlier
/// try left is made anew: it held nothing, and half a header would open with no key. The label
/// says "finished" last of all.
pub fn make_volume(
    machine: &dyn Machine,
    pool: &PoolId,
    device: &str,
    key: &Key,
    mut tell: impl FnMut(&str),
) -> Result<(), Error> {
    if luks::mapping(machine, MAPPING).map_err(told)?.is_some() {
        luks::close(machine, MAPPING).map_err(told)?;
    }
    tell("encrypting the pool");
    luks::format(machine, device, &pool.label(false), key).map_err(told)?;
    luks::open(machine, device, MAPPING, key).map_err(|e| Error::Failed(contract::told(&e)))?;
    tell("making the pool's file system");
    xfs::make(machine, &format!("/dev/mapper/{MAPPING}"), "strongroom").map_err(told)?;
    luks::set_label(machine, device, &pool.label(true)).map_err(told)
}

pub(crate) fn told(error: disks::Error) -> Error {
    Error::Failed(contract::told(&error))
}
