//! The simulated machine as poold sees it.

use devices::{Content, Disk, Source};
use disks::simulated::{Media, Simulated};

pub(crate) struct Disks(pub(crate) Simulated);

impl Source for Disks {
    fn disks(&self) -> Result<Vec<Disk>, devices::Error> {
        let disk = |(name, disk): (String, disks::simulated::SimulatedDisk)| Disk {
            path: format!("/dev/{name}").into(),
            model: "Simulated".into(),
            size: disk.size,
            system: name == "sys",
            removable: disk.serial.starts_with("STICK"),
            read_only: disk.serial.starts_with("LOCKED"),
            serial: disk.serial,
            content: self.content(&disk.media),
        };
        Ok(self.0.disks().into_iter().map(disk).collect())
    }
}

impl Disks {
    fn content(&self, media: &Media) -> Content {
        let signature = |kind: &str, label: &str| Content::Signature {
            kind: kind.into(),
            label: label.into(),
            uuid: String::new(),
        };
        match media {
            Media::Blank => Content::Blank,
            Media::Foreign(kind, label) => signature(kind, label),
            Media::Member(uuid, _) => signature(
                "linux_raid_member",
                &self.0.array_of(uuid).unwrap_or_default(),
            ),
            Media::Volume(volume) => signature("crypto_LUKS", &volume.label),
        }
    }
}
