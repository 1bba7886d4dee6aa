//! Disks of virtual machines, in every format that qemu-img writes.

use crate::bench::Bench;
use crate::noise_byte;
use filetree::compare::compare;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

const MIB: u64 = 1 << 20;
/// Bytes of the disk, and where and how many of them change.
const SIZE: u64 = 48 * MIB;
const CHANGED: (u64, u64) = (13 * MIB, 200 << 10);
/// A change may cost what is around it: chunks at its ends, tables of the format, metadata of ours.
const AROUND: u64 = 400 << 10;

/// Formats, each with what qemu-img is told to make it. Where it has several files the named one is first.
const DISKS: [(&str, &str, &[&str]); 20] = [
    ("raw", "raw", &[]),
    ("qcow", "qcow", &[]),
    ("qcow2", "qcow2", &[]),
    ("qcow2-small-clusters", "qcow2", &["-o", "cluster_size=4k"]),
    ("qcow2-allocated", "qcow2", &["-o", "preallocation=falloc"]),
    ("qcow2-zlib", "qcow2", &["-c"]),
    (
        "qcow2-zstd",
        "qcow2",
        &["-c", "-o", "compression_type=zstd"],
    ),
    ("qed", "qed", &[]),
    ("vdi", "vdi", &[]),
    ("vdi-static", "vdi", &["-o", "static=on"]),
    ("vhdx", "vhdx", &[]),
    ("vhdx-fixed", "vhdx", &["-o", "subformat=fixed"]),
    ("vpc", "vpc", &["-o", "force_size=on"]),
    ("vpc-fixed", "vpc", &["-o", "force_size=on,subformat=fixed"]),
    ("vmdk", "vmdk", &["-o", "subformat=monolithicSparse"]),
    ("vmdk-flat", "vmdk", &["-o", "subformat=monolithicFlat"]),
    (
        "vmdk-2gb",
        "vmdk",
        &["-o", "subformat=twoGbMaxExtentSparse"],
    ),
    (
        "vmdk-2gb-flat",
        "vmdk",
        &["-o", "subformat=twoGbMaxExtentFlat"],
    ),
    ("vmdk-stream", "vmdk", &["-o", "subformat=streamOptimized"]),
    ("parallels", "parallels", &[]),
];

/// Opened by a secret, which takes words of its own.
const SECRET: [&str; 2] = ["--object", "secret,id=lock,data=known"];

/// One of qemu's tools, in the scratch directory; answers what it printed.
fn qemu(bench: &Bench, tool: &str, words: &[&str]) -> String {
    let mut command = Command::new(tool);
    let output = command.args(words).current_dir(bench.temp.path()).output();
    let output = output.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{tool} {words:?}: {out}{error}");
    out
}

/// A disk with noise, text and much that was never written.
fn make(path: &Path) {
    let disk = fs::File::create(path).unwrap();
    disk.set_len(SIZE).unwrap();
    for (number, at) in (0..SIZE).step_by(6 * MIB as usize).enumerate() {
        let start = number as u32 * 1_000_000;
        let noise: Vec<u8> = (start..start + 900_000).map(noise_byte).collect();
        let text: String = (0..60_000).map(|i| format!("{number} {i}\n")).collect();
        disk.write_all_at(&[&noise, text.as_bytes()].concat(), at)
            .unwrap();
    }
}

fn convert(bench: &Bench, name: &str, format: &str, words: &[&str]) {
    let to = format!("disks/{name}/disk");
    let all = [
        &["convert", "-f", "raw", "-O", format],
        words,
        &["plain", &to],
    ];
    fs::create_dir_all(bench.at("disks").join(name)).unwrap();
    qemu(bench, "qemu-img", &all.concat());
}

/// How qemu's tools are told to open a disk.
fn opened(name: &str, format: &str, root: &str) -> String {
    let key = if format == "luks" {
        ",key-secret=lock"
    } else {
        ""
    };
    format!("driver={format}{key},file.filename={root}/{name}/disk")
}

/// Whether the disk inside is the plain one.
fn same_inside(bench: &Bench, name: &str, format: &str, root: &str) {
    let (plain, disk) = ("driver=raw,file.filename=plain", opened(name, format, root));
    let words = ["compare", "--image-opts", plain, &disk];
    let said = qemu(
        bench,
        "qemu-img",
        &[&words[..1], &SECRET, &words[1..]].concat(),
    );
    assert!(said.contains("Images are identical"), "{name}: {said}");
}

#[test]
fn disks_of_every_format_come_back_and_a_change_within_is_stored_as_little_more() {
    let Ok(help) = Command::new("qemu-img").arg("--help").output() else {
        println!("skipped: qemu-img is missing; ./dev deps installs it");
        return;
    };
    let help = String::from_utf8(help.stdout).unwrap();
    let listed = help.split("Supported image formats:").nth(1).unwrap();
    let written: Vec<&str> = listed.split_whitespace().collect();
    let locked: &[&str] = &["-o", "key-secret=lock,iter-time=10"];
    let locked = [&SECRET[..], locked].concat();
    let mut disks: Vec<(&str, &str, &[&str])> = DISKS.to_vec();
    disks.push(("luks", "luks", &locked));
    disks.retain(|(name, format, _)| {
        let can = written.contains(format);
        if !can {
            println!("skipped: {name}: this qemu-img does not write {format}");
        }
        can
    });
    let bench = Bench::new();
    make(&bench.at("plain"));
    for (name, format, words) in &disks {
        convert(&bench, name, format, words);
    }
    bench.backup(&bench.at("disks"));
    let restore = ["restore", "s", "--key-file", "k", "latest"];
    bench.good(&[&restore[..], &["first", "--verify"]].concat());
    let compared = compare(&bench.at("disks"), &bench.at("first")).unwrap();
    assert_eq!(compared.differences, []);
    assert!(compared.bytes > 200 * MIB, "{compared:?}");
    for (name, format, _) in &disks {
        same_inside(&bench, name, format, "first");
    }

    let (at, length) = CHANGED;
    let write = format!("write -s noise {at} {length}");
    let plain = fs::OpenOptions::new().write(true).open(bench.at("plain"));
    let plain = plain.unwrap();
    for (number, (name, format, words)) in disks.iter().enumerate() {
        // new to each of them
        let start = 0x4000_0000 + number as u32 * 1_000_000;
        let noise: Vec<u8> = (start..start + length as u32).map(noise_byte).collect();
        fs::write(bench.at("noise"), &noise).unwrap();
        plain.write_all_at(&noise, at).unwrap();
        // this one cannot be written to, only made anew
        if *name == "vmdk-stream" {
            fs::remove_dir_all(bench.at("disks").join(name)).unwrap();
            convert(&bench, name, format, words);
        } else {
            let disk = opened(name, format, "disks");
            let words = ["--image-opts", "-c", &write, &disk];
            qemu(&bench, "qemu-io", &[&SECRET[..], &words].concat());
        }
        let backup = bench.backup(&bench.at("disks").join(name));
        let new = backup["unique"].as_u64().unwrap();
        let few = length..length + AROUND;
        assert!(few.contains(&new), "{name}: {new} bytes");
        let target = format!("second/{name}");
        fs::create_dir_all(bench.at(&target)).unwrap();
        bench.good(&[&restore[..], &[&target]].concat());
        let compared = compare(&bench.at("disks").join(name), &bench.at(&target)).unwrap();
        assert_eq!(compared.differences, [], "{name}");
        same_inside(&bench, name, format, "second");
    }
}
