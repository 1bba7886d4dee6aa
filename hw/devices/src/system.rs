//! Which disks the running system is on.

use std::collections::BTreeSet;
use std::path::Path;

const OURS: &[&str] = &["/", "/usr", "/var", "/boot", "/boot/efi", "/efi"];

/// Names (`sda`) of the whole disks below the system's mounts, through partitions, mappings and
/// arrays. `mountinfo` is the text of /proc/self/mountinfo, `sysfs` where sysfs is mounted.
pub(crate) fn disks(sysfs: &Path, mountinfo: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in mountinfo.lines() {
        // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
        let fields: Vec<_> = line.split(' ').collect();
        let &[_, _, numbers, _, point, ..] = fields.as_slice() else {
            continue;
        };
        if OURS.contains(&point)
            && let Ok(device) = sysfs.join("dev/block").join(numbers).canonicalize()
        {
            below(&device, &mut found);
        }
    }
    found
}

fn below(device: &Path, found: &mut BTreeSet<String>) {
    let mut bottom = true;
    for slave in std::fs::read_dir(device.join("slaves"))
        .into_iter()
        .flatten()
        .flatten()
    {
        bottom = false;
        if let Ok(slave) = slave.path().canonicalize() {
            below(&slave, found);
        }
    }
    if !bottom {
        return;
    }
    let whole = if device.join("partition").exists() {
        device.parent().unwrap_or(device)
    } else {
        device
    };
    found.extend(whole.file_name().map(|n| n.to_string_lossy().into_owned()));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    #[test]
    fn a_verity_root_leads_to_its_disk() {
        let root = tempfile::tempdir().unwrap();
        let sysfs = root.path();
        for directory in [
            "block/vda/vda2",
            "block/vda/vda9",
            "block/vdb",
            "block/dm-0/slaves",
            "block/dm-1/slaves",
            "dev/block",
        ] {
            std::fs::create_dir_all(sysfs.join(directory)).unwrap();
        }
        for partition in ["vda2", "vda9"] {
            std::fs::write(sysfs.join(format!("block/vda/{partition}/partition")), "1").unwrap();
        }
        symlink("../../vda/vda2", sysfs.join("block/dm-0/slaves/vda2")).unwrap();
        symlink("../../vdb", sysfs.join("block/dm-1/slaves/vdb")).unwrap();
        symlink("../../block/dm-0", sysfs.join("dev/block/254:0")).unwrap();
        symlink("../../block/dm-1", sysfs.join("dev/block/254:1")).unwrap();
        let mountinfo = "22 1 254:0 / / ro - erofs /dev/mapper/root ro\n\
            23 22 0:5 / /dev rw - devtmpfs devtmpfs rw\n\
            24 22 254:1 / /srv/strongroom/pool rw - xfs /dev/mapper/p rw\n\
            nonsense\n";
        let found: Vec<_> = super::disks(sysfs, mountinfo).into_iter().collect();
        assert_eq!(found, ["vda"]);
    }
}
