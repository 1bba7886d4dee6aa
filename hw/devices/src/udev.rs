use crate::{Content, Disk, Error, Source, system};
use std::ffi::OsStr;
use std::path::Path;
use tokio::io::unix::AsyncFd;
use udev::{Device, Enumerator, MonitorBuilder, MonitorSocket};

/// Names of block devices that are not disks one makes a pool of.
const NOT_DISKS: &[&str] = &[
    "md", "dm-", "loop", "sr", "zram", "ram", "fd", "nbd", "mtdblock",
];

/// The running system's udev.
#[derive(Clone, Copy, Debug, Default)]
pub struct Udev;

impl Source for Udev {
    fn disks(&self) -> Result<Vec<Disk>, Error> {
        let io = |error| Error::Io("listing the block devices", error);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(io)?;
        let system = system::disks(Path::new("/sys"), &mounts);
        let mut enumerator = Enumerator::new().map_err(io)?;
        enumerator.match_subsystem("block").map_err(io)?;
        let mut disks: Vec<_> = enumerator
            .scan_devices()
            .map_err(io)?
            .filter_map(|device| disk(&device))
            .collect();
        for disk in &mut disks {
            let name = disk.path.file_name().unwrap_or_default();
            disk.system = system.contains(name.to_string_lossy().as_ref());
        }
        disks.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(disks)
    }
}

fn disk(device: &Device) -> Option<Disk> {
    let name = device.sysname().to_str()?;
    let apart = NOT_DISKS.iter().any(|prefix| name.starts_with(prefix));
    // a card's boot area is a disk to the kernel
    let boot_area = name.starts_with("mmcblk") && name.contains("boot");
    if device.devtype()? != "disk" || apart || boot_area {
        return None;
    }
    let size = size(device.attribute_value("size")?)?;
    let property = |name: &str| text(device.property_value(name));
    let attribute = |name: &str| text(device.attribute_value(name));
    let first = |candidates: [String; 3]| {
        candidates
            .into_iter()
            .find(|c| !c.is_empty())
            .unwrap_or_default()
    };
    Some(Disk {
        path: device.devnode()?.to_owned(),
        serial: first([
            property("ID_SERIAL_SHORT"),
            property("ID_SERIAL"),
            attribute("serial"),
        ]),
        model: first([
            property("ID_MODEL"),
            attribute("device/model"),
            String::new(),
        ]),
        size,
        system: false,
        removable: property("ID_BUS") == "usb" || attribute("removable") == "1",
        read_only: attribute("ro") == "1",
        content: content(device, property),
    })
}

fn content(device: &Device, property: impl Fn(&str) -> String) -> Content {
    let kind = property("ID_FS_TYPE");
    if !kind.is_empty() {
        return Content::Signature {
            kind,
            label: property("ID_FS_LABEL"),
            uuid: property("ID_FS_UUID"),
        };
    }
    let table = property("ID_PART_TABLE_TYPE");
    if !table.is_empty() {
        return Content::Partitions(table);
    }
    let children = || {
        std::fs::read_dir(device.syspath())
            .into_iter()
            .flatten()
            .flatten()
    };
    if children().any(|child| child.path().join("partition").exists()) {
        return Content::Partitions("unknown".into());
    }
    let holders = std::fs::read_dir(device.syspath().join("holders"));
    if let Some(holder) = holders.into_iter().flatten().flatten().next() {
        return Content::Held(holder.file_name().to_string_lossy().into_owned());
    }
    if device.is_initialized() {
        Content::Blank
    } else {
        Content::Unknown
    }
}

/// Bytes of a disk with a medium: sysfs counts in 512 whatever the disk does.
fn size(sectors: &OsStr) -> Option<u64> {
    let sectors: u64 = sectors.to_str()?.trim().parse().ok()?;
    sectors.checked_mul(512).filter(|size| *size > 0)
}

/// What a drive or a file system says of itself, fit to be shown: no control characters, which a
/// drive may hold to write on the operator's terminal.
fn text(value: Option<&OsStr>) -> String {
    let value = value.unwrap_or_default().to_string_lossy();
    value.replace(char::is_control, "").trim().to_owned()
}

/// Word of block devices that came, went or changed.
pub struct Watch(AsyncFd<MonitorSocket>);

impl Watch {
    /// Begins to listen; what changes from now on is not missed.
    pub fn new() -> Result<Watch, Error> {
        let io = |error| Error::Io("listening to udev", error);
        let socket = MonitorBuilder::new()
            .and_then(|builder| builder.match_subsystem("block"))
            .and_then(|builder| builder.listen())
            .map_err(io)?;
        Ok(Watch(crate::sys::register(socket).map_err(io)?))
    }

    /// Waits for changes and answers all that are there, a line each ("add /dev/sdb").
    /// Cancel-safe.
    pub async fn changed(&mut self) -> Result<Vec<String>, Error> {
        loop {
            let mut ready = self
                .0
                .readable_mut()
                .await
                .map_err(|error| Error::Io("listening to udev", error))?;
            let told: Vec<_> = ready
                .get_inner()
                .iter()
                .map(|event| format!("{} {}", event.event_type(), event.sysname().display()))
                .collect();
            ready.clear_ready();
            if !told.is_empty() {
                return Ok(told);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn whatever_a_drive_says_is_fit_to_be_shown() {
        bolero::check!().for_each(|bytes| {
            let value = OsStr::from_bytes(bytes);
            let shown = text(Some(value));
            assert!(!shown.contains(char::is_control) && shown.trim() == shown);
            assert!(size(value).is_none_or(|size| size > 0));
        });
    }

    #[test]
    fn sizes_are_counted_in_sectors_and_none_overflows() {
        assert_eq!(size(OsStr::new("8\n")), Some(4096));
        for none in ["0", "", "x", "18446744073709551615", "-1"] {
            assert_eq!(size(OsStr::new(none)), None);
        }
        assert_eq!(text(Some(OsStr::new(" WD\x1b[2J Red\n"))), "WD[2J Red");
        assert_eq!(text(None), "");
    }
}
