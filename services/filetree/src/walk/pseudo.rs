//! File systems that hold no files of anyone's: windows into the kernel.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, fstatfs, makedev, openat};

/// Magic numbers of statfs(2), from the kernel's linux/magic.h.
const MAGIC: [u64; 24] = [
    0x0187,      // autofs: its content is mounted when something is
    0x1cd1,      // devpts
    0x9fa0,      // proc
    0x0027_e0eb, // cgroup
    0x1980_0202, // mqueue
    0x4249_4e4d, // binfmt_misc
    0x5046_4d49, // PID file systems of some kernels
    0x5049_4446, // pidfs
    0x5345_4349, // securityfs of some kernels
    0x6165_676c, // pstore
    0x6265_6570, // configfs
    0x6265_6572, // sysfs
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x6573_5543, // fusectl
    0x6759_6969, // rpc_pipefs
    0x6e66_7364, // nfsd
    0x6e73_6673, // nsfs
    0x7363_6673, // securityfs
    0x7472_6163, // tracefs
    0x9584_58f6, // hugetlbfs
    0xcafe_4a11, // bpf
    0xde5e_81e4, // efivarfs
    0xf97c_ff8c, // selinuxfs
];

/// Tells pseudo file systems by their kind; devtmpfs, which says it is a tmpfs, by its device.
pub(super) struct Devices {
    devtmpfs: HashSet<u64>,
}

impl Devices {
    pub(super) fn new() -> Self {
        let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        let devtmpfs = mounts.split(|b| *b == b'\n').filter_map(devtmpfs).collect();
        Self { devtmpfs }
    }

    /// Whether the directory `name`, on device `dev`, is on such a file system. Looking does not
    /// mount what is mounted on demand.
    pub(super) fn holds(&self, dir: &OwnedFd, name: &[u8], dev: u64) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.devtmpfs.contains(&dev)
            || openat(dir, name, flags, Mode::empty())
                .and_then(fstatfs)
                .is_ok_and(|fs| MAGIC.contains(&(fs.f_type as u64 & 0xffff_ffff)))
    }
}

/// The device of a devtmpfs from a line of mountinfo (proc(5)): the third field is its number, the
/// first after ` - ` the kind.
fn devtmpfs(line: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(line).ok()?;
    let (mount, kind) = line.split_once(" - ")?;
    let (major, minor) = mount.split(' ').nth(2)?.split_once(':')?;
    (kind.split(' ').next() == Some("devtmpfs"))
        .then_some(makedev(major.parse().ok()?, minor.parse().ok()?))
}
