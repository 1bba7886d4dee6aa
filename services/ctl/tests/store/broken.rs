//! A writer that is killed, two at once, and datastores with parts cut off or of a later release:
//! the next command works, or refuses with a sentence.

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// Noise, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A source of more than a pack, so that a backup of it takes a while and can be met half done.
fn source(bench: &Bench) -> PathBuf {
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    for file in 0..4 {
        fs::write(source.join(format!("file-{file}")), noise(file, 30 << 20)).unwrap();
    }
    source
}

/// Begins a backup, and lets it go until this is so. One that ended before that was seen is forgotten,
/// and the next one begins from nothing.
fn begun(bench: &Bench, until: impl Fn(&Bench) -> bool) -> Child {
    for _ in 0..50 {
        match begun_once(bench, &until) {
            Some(child) => return child,
            None => {
                bench.good(&["forget", "s", "latest"]);
                bench.good(&["gc", "s"]);
            }
        }
    }
    panic!("it was always too fast to be met");
}

fn begun_once(bench: &Bench, until: impl Fn(&Bench) -> bool) -> Option<Child> {
    let arguments = ["backup", "s", "--key-file", "k", "--group", "g", "source"];
    let mut command = bench.command(&arguments);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !until(bench) {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        std::thread::yield_now();
    }
    Some(child)
}

/// Files in a directory of the datastore, and their bytes together.
fn there(bench: &Bench, dir: &str) -> (usize, u64) {
    let files = fs::read_dir(bench.at(dir)).unwrap();
    // what is renamed or removed just now has no length
    let lengths = files.map(|f| f.unwrap().metadata().map_or(0, |m| m.len()));
    lengths.fold((0, 0), |(count, sum), length| (count + 1, sum + length))
}

#[test]
fn who_is_killed_at_any_time_leaves_what_the_next_command_goes_on_with() {
    let bench = Bench::new();
    let source = source(&bench);
    let before = bench.at("before");
    fs::create_dir(&before).unwrap();
    fs::write(before.join("file"), "earlier").unwrap();
    let earlier = bench.backup(&before)["snapshot"].clone();
    let earlier = earlier.as_str().unwrap();
    let moments: [fn(&Bench) -> bool; 5] = [
        |bench| there(bench, "s/tmp").0 > 0,
        |bench| there(bench, "s/tmp").1 > 20 << 20,
        |bench| there(bench, "s/tmp").1 > 50 << 20,
        |bench| there(bench, "s/packs").1 > 60 << 20,
        // the whole first pack is there already, and the second one is written
        |bench| there(bench, "s/tmp").1 > 40 << 20,
    ];
    for (number, moment) in moments.into_iter().enumerate() {
        let mut child = begun(&bench, moment);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(
            bench.json(&["snapshots", "s"])["snapshots"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        assert_eq!(there(&bench, "s/tmp").0, 0, "nothing unfinished stays");
        bench.good(&["verify", "s", "--key-file", "k"]);
        let target = format!("back{number}");
        bench.good(&["restore", "s", "--key-file", "k", earlier, &target]);
        assert_eq!(
            compare(&before, &bench.at(&target)).unwrap().differences,
            []
        );
    }
    let known = bench.json(&["stats", "s"])["unique"].as_u64().unwrap();
    assert!(
        known > 60 << 20,
        "what was brought before is not lost: {known}"
    );
    let done = bench.backup(&source);
    assert!(done["unique"].as_u64().unwrap() < 60 << 20, "{done}");
    bench.restore_latest("back");
    assert_eq!(compare(&source, &bench.at("back")).unwrap().differences, []);
}

#[test]
fn of_two_writers_the_second_is_told_by_whom_the_datastore_is_held() {
    let bench = Bench::new();
    let source = source(&bench);
    let child = begun(&bench, |bench| there(bench, "s/tmp").0 > 0);
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    // so that it is still there when the second one looks
    kill(pid, Signal::SIGSTOP).unwrap();
    for second in [
        &["backup", "s", "--key-file", "k", "--group", "g", "source"][..],
        &["restore", "s", "--key-file", "k", "latest", "back"],
        &["recover", "s"],
    ] {
        let (_, error) = bench.ends(second, 2);
        let told = format!("is in use by process {pid} (strongroom); wait for that to end, ");
        assert!(
            error.contains(&told) && error.lines().count() == 1,
            "{error}"
        );
    }
    kill(pid, Signal::SIGCONT).unwrap();
    told(&child.wait_with_output().unwrap(), 0);
    bench.good(&["restore", "s", "--key-file", "k", "latest", "back"]);
    assert_eq!(compare(&source, &bench.at("back")).unwrap().differences, []);
}

/// Sets the version of what begins a file.
fn set_version(path: &Path, at: usize, version: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] = version;
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_a_later_release_wrote_is_refused_with_that_word() {
    let bench = Bench::new();
    fs::write(bench.at("file"), "x").unwrap();
    let id = bench.backup(&bench.at("file"))["snapshot"].clone();
    let id = id.as_str().unwrap();
    const UPDATE: &str = "has format version 2; a newer Strongroom wrote it, update this one\n";
    let snapshot = format!("s/snapshots/{id}.snap");
    set_version(&bench.at(&snapshot), 8, 2);
    let (out, error) = bench.ends(&["snapshots", "s"], 1);
    assert!(
        error.ends_with(UPDATE) && error.contains(id),
        "{out}{error}"
    );
    let (_, error) = bench.ends(&["verify", "s"], 1);
    assert!(error.contains(UPDATE) && error.contains(id), "{error}");
    let (_, error) = bench.ends(&["restore", "s", "--key-file", "k", "latest", "back"], 2);
    assert_eq!(
        error,
        "strongroom: the datastore has no snapshot that can be read; make one by a backup\n"
    );

    let text = fs::read_to_string(bench.at("k")).unwrap();
    // digits: eight bytes of mark, then the version
    fs::write(bench.at("k2"), format!("{}02{}", &text[..16], &text[18..])).unwrap();
    let (_, error) = bench.ends(&["snapshots", "s", "--key-file", "k2"], 2);
    let told = format!("the key file k2 cannot be used: this key set {UPDATE}");
    assert!(error.contains(&told), "{error}");

    set_version(&bench.at("s/datastore"), 8, 2);
    for command in [
        &["stats", "s"][..],
        &["recover", "s"],
        &["verify", "s", "--key-file", "k"],
    ] {
        let (_, error) = bench.ends(command, 2);
        assert_eq!(error, format!("strongroom: s/datastore {UPDATE}"));
    }
    // none ever wrote 0
    set_version(&bench.at("s/datastore"), 8, 0);
    let (_, error) = bench.ends(&["stats", "s"], 2);
    let told = "strongroom: s/datastore cannot be used; another copy may have it whole, and repair takes it from \
                there: this datastore has a wrong format version\n";
    assert_eq!(error, told);
}

#[test]
fn packs_cut_off_and_files_of_elsewhere_cost_what_was_in_them_alone() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("kept"), "kept").unwrap();
    bench.backup(&source);
    let small = bench.packs();
    fs::write(source.join("large"), noise(1, 300_000)).unwrap();
    let id = bench.backup(&source)["snapshot"].clone();
    let id = id.as_str().unwrap();
    let larger = |pack: &PathBuf| !small.contains(pack) && pack.metadata().unwrap().len() > 200_000;
    let pack = bench.packs().into_iter().find(larger).unwrap();
    let whole = fs::read(&pack).unwrap();
    fs::write(&pack, &whole[..whole.len() / 2]).unwrap();
    fs::write(bench.at("s/packs/notes"), "mine").unwrap();
    fs::write(bench.at("s/snapshots/notes"), "mine").unwrap();

    let (out, error) = bench.ends(&["verify", "s"], 1);
    assert!(out.contains("1 snapshot affected"), "{out}{error}");
    assert!(
        error.contains(pack.file_name().unwrap().to_str().unwrap()),
        "{error}"
    );
    let (_, error) = bench.ends(&["restore", "s", "--key-file", "k", id, "back"], 1);
    assert!(
        error.starts_with("1 problem:\n  large: cannot read packs/"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(bench.at("back/kept")).unwrap(), "kept");
    assert!(!bench.at("back/large").exists());
    bench.backup(&source);
    bench.good(&["restore", "s", "--key-file", "k", id, "back2"]);
    assert_eq!(
        compare(&source, &bench.at("back2")).unwrap().differences,
        []
    );
    assert!(bench.at("s/packs/notes").exists() && bench.at("s/snapshots/notes").exists());
}

#[test]
fn a_snapshot_that_cannot_be_read_is_named_by_who_stops_for_it_and_can_be_forgotten() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let id = bench.backup(&source)["snapshot"].clone();
    let id = id.as_str().unwrap();
    bench.backup(&source);
    let file = bench.at(&format!("s/snapshots/{id}.snap"));
    let mut bytes = fs::read(&file).unwrap();
    bytes[40] ^= 1;
    fs::write(&file, bytes).unwrap();
    let words = format!("snapshot {id} cannot be read, so nobody knows what it needs");
    for gc in [&["gc", "s"][..], &["gc", "s", "--dry-run"]] {
        let (_, error) = bench.ends(gc, 2);
        assert!(error.contains(&words) && error.contains("or forget the snapshot"));
    }
    let (_, error) = bench.ends(&["restore", "s", "--key-file", "k", &id[..9], "back"], 2);
    assert!(
        error.contains(&format!("snapshots/{id}.snap cannot be used")),
        "{error}"
    );
    let (_, error) = bench.ends(&["forget", "s", ""], 2);
    assert!(error.contains("a snapshot is named by its id;"), "{error}");
    bench.good(&["forget", "s", &id[..9]]);
    bench.good(&["gc", "s"]);
    bench.good(&["restore", "s", "--key-file", "k", "latest", "back"]);
}
