//! The real sysfs and udev of the machine the tests run on.

use devices::{Content, Source, Udev};

#[test]
fn disks_are_listed_and_none_in_use_is_blank() {
    for disk in Udev.disks().unwrap() {
        assert!(disk.size > 0, "{disk:?}");
        assert!(disk.path.starts_with("/dev"), "{disk:?}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounted = mounts
            .lines()
            .any(|line| line.contains(&format!(" {} ", disk.path.display())));
        assert!(!mounted || disk.content != Content::Blank, "{disk:?}");
    }
}
