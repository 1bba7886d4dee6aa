//! Block devices that are named themselves.

use crate::bench::{Bench, told};
use crate::broken::noise;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: usize = 1 << 20;

/// A file as a block device.
struct Loop(PathBuf);

impl Loop {
    /// None where there can be none; says why.
    fn over(file: &Path) -> Option<Self> {
        let mut attach = Command::new("losetup");
        let output = attach.args(["--find", "--show"]).arg(file).output();
        match output {
            Ok(output) if output.status.success() => {
                let name = String::from_utf8(output.stdout).unwrap();
                Some(Self(name.trim().into()))
            }
            other => {
                println!("skipped: no loop device to be had here ({other:?})");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
        assert!(detached.unwrap().success() || std::thread::panicking());
    }
}

#[test]
fn a_device_with_nothing_behind_it_is_told() {
    let bench = Bench::new();
    fs::write(bench.at("empty"), "").unwrap();
    let Some(device) = Loop::over(&bench.at("empty")) else {
        return;
    };
    let named = device.0.to_str().unwrap();
    let all = ["backup", "s", "--key-file", "k", "--group", "g", named];
    let (_, error) = bench.ends(&all, 1);
    let words = format!("1 problem:\n  {named}: is a device of 0 bytes; attach or open");
    assert!(error.starts_with(&words), "{error}");
}

#[test]
fn a_block_device_is_kept_by_what_is_on_it_and_read_again_each_time() {
    let bench = Bench::new();
    let image = bench.at("image");
    let mut content = vec![0; 24 * MIB + 4096];
    content[3 * MIB..5 * MIB].copy_from_slice(&noise(1, 2 * MIB));
    fs::write(&image, &content).unwrap();
    let Some(device) = Loop::over(&image) else {
        return;
    };
    // udev's names are such links
    let named = bench.at("by-id");
    symlink(&device.0, &named).unwrap();
    let first = bench.backup(&named);
    assert!(first["logical"].as_u64() > Some(2 * MIB as u64), "{first}");
    let restored = |id: &serde_json::Value, target: &str| {
        let id = id.as_str().unwrap();
        bench.good(&["restore", "s", "--key-file", "k", id, target, "--verify"]);
        bench.at(target).join(device.0.strip_prefix("/").unwrap())
    };
    let back = restored(&first["snapshot"], "back1");
    assert!(fs::read(&back).unwrap() == content);
    // zeros take no room, neither there nor here
    let taken = back.metadata().unwrap().blocks() * 512;
    assert!(taken < 3 * MIB as u64, "{taken}");
    let data: u64 = first["unique"].as_u64().unwrap();
    assert!(data < 3 * MIB as u64, "{data}");
    // a write that no time tells of, and one that makes zeros of data
    let written = File::options().write(true).open(&device.0).unwrap();
    written.write_all_at(&[7; 512], 20 * MIB as u64).unwrap();
    written
        .write_all_at(&vec![0; MIB / 2], 4 * MIB as u64)
        .unwrap();
    written.sync_all().unwrap();
    drop(written);
    content[20 * MIB..20 * MIB + 512].fill(7);
    content[4 * MIB..4 * MIB + MIB / 2].fill(0);
    let second = bench.backup(&device.0);
    assert!(second["unique"].as_u64() < Some(MIB as u64 / 2), "{second}");
    let back = restored(&second["snapshot"], "back2");
    assert!(fs::read(&back).unwrap() == content);
    // below a directory it is a device
    let dir = bench.at("dir");
    fs::create_dir(&dir).unwrap();
    let made = Command::new("cp")
        .arg("-a")
        .args([&device.0, &dir.join("node")])
        .status();
    assert!(made.unwrap().success());
    assert_eq!(bench.backup(&dir)["logical"], 0);
    // one that is mounted may change meanwhile
    let format = Command::new("mkfs.ext4").arg("-q").arg(&device.0).status();
    assert!(format.is_ok_and(|status| status.success()));
    let mountpoint = bench.at("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let mounted = Command::new("mount")
        .args([&device.0, &mountpoint])
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: its file system cannot be mounted here");
        return;
    }
    let named = device.0.to_str().unwrap();
    let output = bench.run(&["backup", "s", "--key-file", "k", "--group", "g", named]);
    let unmounted = Command::new("umount").arg(&mountpoint).status();
    assert!(unmounted.unwrap().success());
    let (_, said) = told(&output, 1);
    let sentence = format!(
        "{named}: is in use, so what was kept may mix old and new; unmount it, or name a snapshot of it"
    );
    assert!(said.contains(&sentence), "{said}");
}
