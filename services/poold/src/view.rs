//! What there is: disks, arrays, volumes, the mount. Read anew each time, nothing remembered.

use crate::name::PoolId;
use devices::{Content, Disk, Source};
use disks::luks::Mapping;
use disks::md::{Array, Superblock};
use disks::{Machine, luks, md, mount, probe};
use std::collections::BTreeSet;

/// The name of the open volume below /dev/mapper; the mount unit names it too.
pub const MAPPING: &str = "strongroom-pool";

/// A disk with an array superblock of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its node.
    pub path: String,
    /// Its serial number.
    pub serial: String,
    /// The pool it belongs to.
    pub pool: PoolId,
    /// What the superblock says.
    pub superblock: Superblock,
}

/// A LUKS volume of ours, on a whole disk or in an active array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The node it is on.
    pub device: String,
    /// The pool it is.
    pub pool: PoolId,
    /// Whether its making ended.
    pub finished: bool,
}

/// Everything [`crate::plan`] looks at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// All whole disks.
    pub disks: Vec<Disk>,
    /// Those with our superblock, by path.
    pub members: Vec<Member>,
    /// Our arrays, with their pools.
    pub arrays: Vec<(PoolId, Array)>,
    /// Our volumes.
    pub volumes: Vec<Volume>,
    /// The open volume.
    pub mapping: Option<Mapping>,
    /// Whether the pool is mounted.
    pub mounted: bool,
}

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// udev or sysfs.
    #[error(transparent)]
    Devices(#[from] devices::Error),
    /// A command.
    #[error(transparent)]
    Disks(#[from] disks::Error),
}

impl View {
    /// The serial numbers of the disks of a pool that are plugged in.
    pub fn serials(&self, pool: &PoolId) -> BTreeSet<String> {
        let members = self.members.iter().filter(|m| m.pool == *pool);
        let volumes = self.volumes.iter().filter(|v| v.pool == *pool);
        let on_disk = volumes.filter_map(|v| self.disk(&v.device));
        members
            .map(|m| m.serial.clone())
            .chain(on_disk.map(|d| d.serial.clone()))
            .collect()
    }

    /// The whole disk of this node.
    pub fn disk(&self, path: &str) -> Option<&Disk> {
        self.disks.iter().find(|d| d.path.as_os_str() == path)
    }
}

/// Looks. `mount_point` is where the pool is mounted when it is.
pub fn look(
    machine: &dyn Machine,
    source: &dyn Source,
    mount_point: &str,
) -> Result<View, LookError> {
    let disks = source.disks()?;
    let arrays: Vec<_> = md::arrays(machine)?
        .into_iter()
        .filter_map(|array| Some((PoolId::of_name(&array.name)?, array)))
        .collect();
    let mut members = Vec::new();
    let mut volumes = Vec::new();
    for disk in &disks {
        let path = disk.path.to_string_lossy().into_owned();
        if disk.system {
            continue;
        }
        // udev may be behind by a moment, so what could be ours is read again
        match &disk.content {
            Content::Signature { kind, label, .. }
                if kind == "linux_raid_member" && PoolId::of_name(label).is_some() =>
            {
                if let Some(superblock) = md::examine(machine, &path)?
                    && let Some(pool) = PoolId::of_name(&superblock.name)
                {
                    members.push(Member {
                        path,
                        serial: disk.serial.clone(),
                        pool,
                        superblock,
                    });
                }
            }
            Content::Signature { kind, label, .. }
                if kind == "crypto_LUKS" && PoolId::of_label(label).is_some() =>
            {
                volumes.extend(volume(machine, &path)?);
            }
            _ => {}
        }
    }
    for (_, array) in arrays.iter().filter(|(_, array)| array.active) {
        volumes.extend(volume(machine, &array.device)?);
    }
    Ok(View {
        members,
        volumes,
        mapping: luks::mapping(machine, MAPPING)?,
        mounted: mount::is_mounted(machine, mount_point)?,
        disks,
        arrays,
    })
}

fn volume(machine: &dyn Machine, device: &str) -> Result<Option<Volume>, disks::Error> {
    let found = probe::probe(machine, device)?;
    let pool = found
        .filter(|signature| signature.kind == "crypto_LUKS")
        .and_then(|signature| PoolId::of_label(&signature.label));
    Ok(pool.map(|(pool, finished)| Volume {
        device: device.to_owned(),
        pool,
        finished,
    }))
}
