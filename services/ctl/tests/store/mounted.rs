//! `strongroom store mount` with the kernel's FUSE, where there is one and it may be used.

use crate::bench::Bench;
use filetree::compare::compare;
use filetree::specimen::{self, Scale};
use rustix::fs::{SeekFrom, seek};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A mount at `m`, unmounted when dropped.
pub(crate) struct Mounted<'a> {
    bench: &'a Bench,
    child: Child,
    /// What it printed when it was there.
    pub(crate) said: Value,
}

impl<'a> Mounted<'a> {
    /// `None` where FUSE is not to be had, which is printed.
    pub(crate) fn new(bench: &'a Bench, more: &[&str]) -> Option<Self> {
        fs::create_dir_all(bench.at("m")).unwrap();
        let mount = ["mount", "s", "--key-file", "k", "m", "--json"];
        let mut command = bench.command(&[&mount[..], more].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // one document, then nothing until the end
        let mut text = String::new();
        for line in BufReader::new(child.stdout.as_mut().unwrap()).lines() {
            let line = line.unwrap();
            text += &line;
            if line == "}" {
                let said = serde_json::from_str(&text).unwrap();
                return Some(Self { bench, child, said });
            }
        }
        let (status, error) = (child.wait().unwrap(), rest(child.stderr.take()));
        assert_eq!(status.code(), Some(2), "{error}");
        let may_be = ["/dev/fuse is not there", "nothing can be mounted on"];
        assert!(may_be.iter().any(|words| error.contains(words)), "{error}");
        println!("not tested with FUSE: {error}");
        None
    }

    fn at(&self, path: &str) -> PathBuf {
        self.bench.at("m").join(path)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; what it said of problems.
    fn ends(mut self, status: i32) -> String {
        let ended = self.child.wait().unwrap();
        let error = rest(self.child.stderr.take());
        assert_eq!(ended.code(), Some(status), "{error}");
        assert_eq!(
            fs::read_dir(self.bench.at("m")).unwrap().count(),
            0,
            "unmounted"
        );
        error
    }

    /// Unmounts it as anybody would.
    fn unmount(self, status: i32) -> String {
        // who is not root has this
        for program in [&["umount"][..], &["fusermount3", "-u"]] {
            let mut command = Command::new(program[0]);
            command.args(&program[1..]).arg(self.bench.at("m"));
            if command.status().is_ok_and(|ended| ended.success()) {
                return self.ends(status);
            }
        }
        panic!("it cannot be unmounted");
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

fn rest(pipe: Option<impl Read>) -> String {
    let mut text = String::new();
    pipe.map(|mut pipe| pipe.read_to_string(&mut text));
    text
}

#[test]
fn a_tree_of_everything_is_seen_as_it_was() {
    let bench = Bench::new();
    let (source, before) = (bench.at("source"), bench.at("before"));
    for tree in [&source, &before] {
        fs::create_dir(tree).unwrap();
        specimen::create(tree, 7, Scale::default()).unwrap();
    }
    let first = bench.backup(&source)["snapshot"].clone();
    specimen::mutate(&source, 7).unwrap();
    bench.backup(&source);
    let Some(mounted) = Mounted::new(&bench, &[]) else {
        return;
    };
    assert_eq!(mounted.said["snapshots"], 2);
    for (tree, path) in [
        (&source, "g/latest".to_owned()),
        (&before, format!(".ids/{}", first.as_str().unwrap())),
    ] {
        let seen = mounted.at(&path).canonicalize().unwrap();
        let compared = compare(tree, &seen).unwrap();
        assert_eq!(compared.differences, [], "{path}");
        // holes are where they were, to the block
        assert_eq!(compared.information, [], "{path}");
        assert!(compared.entries > 400, "{}", compared.entries);
    }
    let mut groups: Vec<_> = fs::read_dir(mounted.at(""))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    groups.sort();
    assert_eq!(groups, [".ids", "g"]);
    assert_eq!(fs::read_dir(mounted.at("g")).unwrap().count(), 3);
    let refused = fs::write(mounted.at("g/latest/not-there"), "x").unwrap_err();
    assert_eq!(
        refused.raw_os_error(),
        Some(rustix::io::Errno::ROFS.raw_os_error())
    );
    assert_eq!(mounted.unmount(0), "");
}

#[test]
fn a_large_file_is_read_anywhere_and_its_holes_take_no_space() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    let text: Vec<u8> = (0..2_000_000u32)
        .flat_map(|i| i.wrapping_mul(i).to_le_bytes())
        .collect();
    let file = File::create(source.join("large")).unwrap();
    let hole = 3 << 30;
    file.write_all_at(&text, 0).unwrap();
    file.write_all_at(&text, hole).unwrap();
    let size = file.metadata().unwrap().len();
    bench.backup(&source);
    let Some(mounted) = Mounted::new(&bench, &[]) else {
        return;
    };
    let path = mounted.at("g/latest/large");
    let seen = File::open(&path).unwrap();
    let metadata = seen.metadata().unwrap();
    assert_eq!(metadata.len(), size);
    assert!(metadata.blocks() * 512 <= text.len() as u64 * 2 + (1 << 20));
    let mut at = 17u64;
    for _ in 0..300 {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1) >> 1;
        let within = at % (text.len() as u64 - 10_000);
        let length = (at % 10_000) as usize;
        for start in [within, hole + within] {
            let mut bytes = vec![0; length];
            seen.read_exact_at(&mut bytes, start).unwrap();
            assert!(
                bytes == text[within as usize..][..length],
                "{start} {length}"
            );
        }
    }
    let mut zeros = [1; 4096];
    seen.read_exact_at(&mut zeros, 2 << 30).unwrap();
    assert_eq!(zeros, [0; 4096]);
    let begins = seek(&seen, SeekFrom::Hole(0)).unwrap();
    assert!(
        begins >= text.len() as u64 && begins < text.len() as u64 + 4096,
        "{begins}"
    );
    assert_eq!(seek(&seen, SeekFrom::Data(begins)).unwrap(), hole);
    assert!(seek(&seen, SeekFrom::Data(size)).is_err());
    drop(seen);
    mounted.unmount(0);
}

#[test]
fn signals_end_it_and_what_is_in_use_is_told_first() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    bench.backup(&source);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let Some(mounted) = Mounted::new(&bench, &[]) else {
            return;
        };
        mounted.signal(signal);
        assert_eq!(mounted.ends(0), "");
        // the datastore is free again
        bench.good(&["stats", "s"]);
    }
    for again in [false, true] {
        let mut mounted = Mounted::new(&bench, &[]).unwrap();
        let mut held = File::open(mounted.at("g/latest/file")).unwrap();
        mounted.signal(Signal::INT);
        let mut error = BufReader::new(mounted.child.stderr.take().unwrap());
        let mut line = String::new();
        error.read_line(&mut line).unwrap();
        assert!(line.starts_with("m is in use: "), "{line}");
        assert!(!mounted.at("g").exists());
        let mut content = String::new();
        held.read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");
        if again {
            mounted.signal(Signal::INT);
            mounted.ends(0);
            drop(held);
        } else {
            drop(held);
            mounted.ends(0);
        }
    }
}

#[test]
fn what_is_damaged_is_an_error_and_told_and_the_rest_is_read() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    let text: String = (0..200_000u64).map(|i| format!("{} ", i * i)).collect();
    fs::write(source.join("large"), &text).unwrap();
    fs::write(source.join("small"), "kept").unwrap();
    bench.backup(&source);
    let packs = bench.packs().into_iter();
    let largest = packs.max_by_key(|p| p.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    // in what the first frame seals
    bytes[1000] ^= 1;
    fs::write(&largest, &bytes).unwrap();
    let Some(mounted) = Mounted::new(&bench, &[]) else {
        return;
    };
    let error = fs::read(mounted.at("g/latest/large")).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::IO.raw_os_error())
    );
    assert_eq!(fs::read(mounted.at("g/latest/small")).unwrap(), b"kept");
    let told = mounted.unmount(1);
    assert!(told.contains(": large: chunk "), "{told}");
}

#[test]
fn where_nothing_can_be_mounted_a_sentence_says_why() {
    let bench = Bench::new();
    bench.good(&["init", "other", "--key-file", "k2"]);
    fs::create_dir(bench.at("full")).unwrap();
    fs::create_dir(bench.at("empty")).unwrap();
    fs::create_dir(bench.at("s/inside")).unwrap();
    fs::write(bench.at("full/file"), "x").unwrap();
    if !fs::exists("/dev/fuse").unwrap() {
        let (_, error) = bench.ends(&["mount", "s", "--key-file", "k", "empty"], 2);
        assert!(
            error.contains("/dev/fuse is not there; run `modprobe fuse`"),
            "{error}"
        );
        println!("not tested: the other sentences, for there is no /dev/fuse");
        return;
    }
    for (key, mountpoint, words) in [
        (
            "k",
            "missing",
            "missing does not exist; make an empty directory",
        ),
        ("k", "full", "full is not empty; choose an empty directory"),
        (
            "k",
            "full/file",
            "full/file cannot be mounted on: Not a directory",
        ),
        ("k", "/proc", "something is mounted on /proc already"),
        ("k", "s/inside", "s/inside is in the datastore; choose"),
        ("k2", "empty", "these are not the keys of datastore"),
    ] {
        let (_, error) = bench.ends(&["mount", "s", "--key-file", key, mountpoint], 2);
        assert!(error.contains(words), "{mountpoint}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
