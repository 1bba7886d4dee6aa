//! `strongroom store` as it is typed: what it does, says, and exits with.

mod bench;
mod broken;
mod copies;
mod devices;
mod disks;
mod forge;
mod full;
mod hostile;
mod many;
mod mounted;
mod schema;
mod signals;
mod unchanged;
mod words;

use bench::{Bench, told};
use engine::storage::directory::Directory;
use engine::{Options, Store};
use filetree::compare::compare;
use filetree::specimen::{self, Scale};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

#[test]
fn a_tree_of_everything_comes_back_as_it_was_before_and_after_a_change() {
    let bench = Bench::new();
    let (source, before) = (bench.at("source"), bench.at("before"));
    for tree in [&source, &before] {
        fs::create_dir(tree).unwrap();
        let made = specimen::create(tree, 7, Scale::default()).unwrap();
        if tree == &source {
            made.skipped.iter().for_each(|s| println!("skipped: {s}"));
        }
    }
    assert_eq!(compare(&source, &before).unwrap().differences, []);
    let first = bench.backup(&source);
    specimen::mutate(&source, 7).unwrap();
    let second = bench.backup(&source);
    let unchanged = bench.backup(&source);
    for (id, tree, target) in [
        (&first["snapshot"], &before, "back1"),
        (&second["snapshot"], &source, "back2"),
        (&unchanged["snapshot"], &source, "back3"),
    ] {
        let id = id.as_str().unwrap();
        let all = ["restore", "s", "--key-file", "k", id, target, "--verify"];
        let restored = bench.json(&all);
        let compared = compare(tree, &bench.at(target)).unwrap();
        assert_eq!(compared.differences, [], "{target}");
        assert_eq!(restored["entries"], compared.entries, "{target}");
        assert!(restored["reread_files"].as_u64() > Some(400), "{restored}");
    }
    // what was there already is not stored again
    let number = |of: &Value, name: &str| of[name].as_u64().unwrap();
    assert!(number(&second, "unique") * 3 < number(&first, "unique"));
    assert_eq!(number(&unchanged, "unique"), 0);
    let stats = bench.json(&["stats", "s"]);
    assert_eq!(stats["snapshots"], 3);
    let used: u64 = bench
        .packs()
        .iter()
        .map(|p| p.metadata().unwrap().len())
        .sum();
    let stored = number(&stats, "stored");
    assert!(
        stored < used && used < stored + stored / 20,
        "{stored} of {used}"
    );
    let listed = bench.json(&["snapshots", "s", "--key-file", "k"]);
    assert_eq!(listed["snapshots"][0]["id"], unchanged["snapshot"]);
    assert_eq!(listed["snapshots"][0]["parent"], second["snapshot"]);
    assert_eq!(listed["snapshots"][0]["group"], "g");
    bench.good(&["verify", "s"]);
    bench.good(&["verify", "s", "--key-file", "k"]);
}

#[test]
fn a_datastore_of_version_1_is_verified_and_restored() {
    let bench = Bench::new();
    let vector = Path::new(env!("CARGO_MANIFEST_DIR")).join("../format/vectors/1/store");
    let copied = Command::new("cp")
        .arg("-R")
        .arg(vector)
        .arg(bench.at("v"))
        .status();
    assert!(copied.unwrap().success());
    bench.good(&["verify", "v", "--key-file", "v/key"]);
    let restored = bench.run(&[
        "restore",
        "v",
        "--key-file",
        "v/key",
        "latest",
        "back",
        "--verify",
    ]);
    // a user cannot give owners, nor make devices, and is told so
    let owned = fs::metadata(bench.at("back")).unwrap().uid() == 1000;
    told(&restored, i32::from(!owned));
    let large = fs::read_to_string(bench.at("back/large")).unwrap();
    assert_eq!(large, "one two ".repeat(750));
    assert_eq!(
        fs::metadata(bench.at("back/sparse")).unwrap().len(),
        (1 << 40) + 8
    );
    assert_eq!(fs::read_dir(bench.at("back/many")).unwrap().count(), 2500);
    let link = fs::read_link(bench.at("back/special/symbolic")).unwrap();
    assert_eq!(link, Path::new("../large"));
}

#[test]
fn a_part_is_restored_and_a_part_that_is_not_there_is_told() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir_all(source.join("a/b")).unwrap();
    fs::write(source.join("a/b/c"), "content").unwrap();
    fs::write(source.join("a/bc"), "other").unwrap();
    bench.backup(&source);
    let id = bench.json(&["snapshots", "s"])["snapshots"][0]["id"].clone();
    let start = &id.as_str().unwrap()[..9];
    let part = |path, target| {
        [
            "restore",
            "s",
            "--key-file",
            "k",
            start,
            target,
            "--path",
            path,
        ]
    };
    bench.good(&[&part("/a/b/", "back")[..], &["--verify"]].concat());
    assert_eq!(
        fs::read_to_string(bench.at("back/a/b/c")).unwrap(),
        "content"
    );
    assert!(!bench.at("back/a/bc").exists());
    // as it was named at the backup
    let full = format!("{}/a/b", source.display());
    bench.good(&part(&full, "full"));
    assert!(bench.at("full/a/b/c").exists() && !bench.at("full/a/bc").exists());
    let longer = format!("{full}d");
    let (_, error) = bench.ends(&part(&longer, "nowhere"), 2);
    let words = format!(
        "the snapshot holds no {longer}, it is of {}; ",
        source.display()
    );
    assert!(error.contains(&words), "{error}");
    let (_, error) = bench.ends(&part("b", "nowhere"), 2);
    assert!(error.contains("; name it as it was backed up"), "{error}");
    // and from where one is, whatever it was called then
    bench.json(&["backup", "s", "--key-file", "k", "--group", "g", "source/."]);
    let listed = bench.json(&["snapshots", "s", "--key-file", "k"]);
    let newest = &listed["snapshots"][0];
    assert_eq!(newest["paths"][0], source.to_str().unwrap());
    let mut relative = part("source/a/b", "relative");
    relative[4] = "latest";
    bench.good(&relative);
    assert!(bench.at("relative/a/b/c").exists() && !bench.at("relative/a/bc").exists());
    // by a link and a way back, of one path and of several
    symlink("source", bench.at("link")).unwrap();
    fs::write(bench.at("file"), "x").unwrap();
    let mut backup = vec![
        "backup",
        "s",
        "--key-file",
        "k",
        "--group",
        "g",
        "source/../link",
    ];
    for (target, back) in [("one", "one/a/b/c".into()), ("two", format!("two{full}/c"))] {
        bench.json(&backup);
        let listed = bench.json(&["snapshots", "s", "--key-file", "k"]);
        let path = &listed["snapshots"][0]["paths"][0];
        assert_eq!(path, source.to_str().unwrap(), "as it is restored");
        let mut by_link = part("source/../link/a/b", target);
        by_link[4] = "latest";
        bench.good(&by_link);
        assert!(bench.at(&back).exists(), "{back}");
        backup.push("file");
    }
    assert!(!bench.at("nowhere").exists(), "nothing is made");
    let (_, error) = bench.ends(&part("a", "back"), 2);
    assert!(error.contains("back is not empty"), "{error}");
}

#[test]
fn what_cannot_be_is_refused_by_a_sentence_and_changes_nothing() {
    let bench = Bench::new();
    fs::write(bench.at("file"), "x").unwrap();
    bench.good(&["init", "other", "--key-file", "k2", "--profile", "centre"]);
    let backup = |key, path| ["backup", "s", "--key-file", key, "--group", "g", path];
    fs::write(bench.at("torn"), "5352").unwrap();
    for (arguments, words) in [
        (
            &backup("k2", "file")[..],
            "these are not the keys of datastore",
        ),
        (
            &backup("none", "file"),
            "the key file none is not there; it is the one that `strongroom store init` wrote, and a copy",
        ),
        (
            &backup("file", "file"),
            "the key file file cannot be used: this is no Strongroom key set",
        ),
        (
            &backup("torn", "file"),
            "the key file torn cannot be used: this is no Strongroom key set",
        ),
        (
            &backup("k", "missing"),
            "missing does not exist; check the path to protect",
        ),
        (
            &["restore", "s", "--key-file", "k", "latest", "back"],
            "the datastore has no snapshot that can be read; make one by a backup",
        ),
        (
            &["restore", "s", "--key-file", "k", "abcd", "back"],
            "there is no snapshot abcd",
        ),
        (
            &["init", "s", "--key-file", "k3"],
            "s already holds a datastore; choose an empty directory",
        ),
        (
            &["stats", "nowhere"],
            "nowhere cannot be opened as a datastore",
        ),
        (
            &["stats", "s/packs"],
            "is no datastore; make one with `strongroom store init`",
        ),
    ] {
        let (_, error) = bench.ends(arguments, 2);
        assert!(error.contains(words), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let nameless = ["backup", "s", "--key-file", "k", "--group", "", "file"];
    let (_, error) = bench.ends(&nameless, 2);
    assert!(error.contains("'--group <GROUP>'"), "{error}");
    let said = bench.good(&["prune", "s", "--keep-last", "1"]);
    assert!(said.ends_with("0 snapshots forgotten, 0 kept.\n"), "{said}");
    assert!(!bench.at("k3").exists(), "no key of a store that is not");
    assert_eq!(bench.json(&["stats", "s"])["chunks"], 0);
}

#[test]
fn a_datastore_in_use_says_by_whom() {
    let bench = Bench::new();
    let directory = Directory::open(&bench.at("s")).unwrap();
    let held = Store::open(Arc::new(directory), Options::default()).unwrap();
    let (_, error) = bench.ends(&["snapshots", "s"], 2);
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    let words = format!(
        "is in use by process {} ({}); wait for that to end, or end it if it is a mount or a daemon",
        std::process::id(),
        name.trim_end()
    );
    assert!(error.contains(&words), "{error}");
    drop(held);
    bench.good(&["snapshots", "s"]);
}

#[test]
fn keys_are_their_owners_alone_and_never_printed() {
    let bench = Bench::new();
    let mode = bench.at("k").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let digits = fs::read_to_string(bench.at("k")).unwrap();
    let secret = digits.lines().nth(1).unwrap().to_owned();
    fs::write(bench.at("file"), "x").unwrap();
    let mut said = String::new();
    for arguments in [
        &["init", "copy", "--key-file", "k"][..],
        &["backup", "s", "--key-file", "k", "--group", "g", "file"],
        &["snapshots", "s", "--key-file", "k"],
        &["verify", "s", "--key-file", "k", "--json"],
    ] {
        let (out, error) = bench.ends(arguments, 0);
        said += &(out + &error);
    }
    assert!(!said.contains(&secret[..16]), "{said}");
    assert_eq!(fs::read_to_string(bench.at("k")).unwrap(), digits);
    fs::set_permissions(bench.at("k"), Permissions::from_mode(0o644)).unwrap();
    let (_, error) = bench.ends(&["snapshots", "s", "--key-file", "k"], 0);
    assert!(error.contains("run `chmod 600 k`"), "{error}");
}

#[test]
fn damage_is_found_without_a_key_and_restored_around() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    let text: String = (0..200_000u64).map(|i| format!("{} ", i * i)).collect();
    fs::write(source.join("large"), &text).unwrap();
    fs::write(source.join("small"), "kept").unwrap();
    fs::hard_link(source.join("large"), source.join("other")).unwrap();
    let id = bench.backup(&source)["snapshot"].clone();
    let id = id.as_str().unwrap();
    let largest = bench
        .packs()
        .into_iter()
        .max_by_key(|p| p.metadata().unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    // in what the first frame seals: a restore does not look at the checks of frames
    bytes[1000] ^= 1;
    fs::write(&largest, &bytes).unwrap();
    let restore = ["restore", "s", "--key-file", "k", id, "back"];
    let (_, error) = bench.ends(&restore, 1);
    assert!(error.contains("2 problems:\n  large: chunk "), "{error}");
    assert!(
        error.contains("with --keep-damaged to have the rest"),
        "{error}"
    );
    assert!(
        error.ends_with("other: is another name of large, which could not be restored\n"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(bench.at("back/small")).unwrap(), "kept");
    assert!(!bench.at("back/large").exists());
    let (_, refused) = bench.ends(&["restore", "s", "--key-file", "k", id, "s/back/here"], 2);
    assert!(
        refused.contains("s/back/here is in the datastore; choose"),
        "{refused}"
    );
    let mut keeps = restore.to_vec();
    keeps.extend(["--keep-damaged"]);
    keeps[5] = "kept";
    let (_, error) = bench.ends(&keeps, 1);
    assert!(error.contains("1 problem:\n  large: bytes "), "{error}");
    let kept = fs::read(bench.at("kept/other")).unwrap();
    let differs = |(a, b): &(&u8, &u8)| a != b;
    let lost: Vec<u8> = kept
        .iter()
        .zip(text.as_bytes())
        .filter(differs)
        .map(|(a, _)| *a)
        .collect();
    assert_eq!(kept.len(), text.len());
    assert!(
        (1000..300_000).contains(&lost.len()) && lost.iter().all(|b| *b == 0),
        "{}",
        lost.len()
    );
    let (out, error) = bench.ends(&["verify", "s"], 1);
    assert!(
        out.contains("1 chunk damaged, 0 missing, 1 snapshot affected"),
        "{out}"
    );
    assert!(
        error.contains(&format!("snapshot {id}: not all of it")),
        "{error}"
    );
    let (_, error) = bench.ends(&["verify", "s", "--key-file", "k"], 1);
    let words = format!(
        "snapshot {id}, 1 file damaged:\n  large\n`strongroom store repair s --from DIR2` brings what is \
         damaged from a copy; without a copy back up again, which stores anew what is still there\n"
    );
    assert!(error.ends_with(&words), "{error}");
    // the next backup stores anew what is broken, and heals the snapshot
    bench.backup(&source);
    bench.good(&["restore", "s", "--key-file", "k", id, "back2"]);
    assert_eq!(
        compare(&source, &bench.at("back2")).unwrap().differences,
        []
    );
    // nothing is left whole, and no file is known
    for pack in bench.packs() {
        let mut bytes = fs::read(&pack).unwrap();
        bytes[100..].iter_mut().step_by(50).for_each(|b| *b ^= 1);
        fs::write(&pack, &bytes).unwrap();
    }
    let (_, error) = bench.ends(&["verify", "s", "--key-file", "k"], 1);
    let words = format!("snapshot {id}:\n  4 entries whose names cannot be read either\n");
    assert!(error.contains(&words), "{error}");
}

#[test]
fn a_lost_index_is_made_anew_without_a_key() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    specimen::create(
        &source,
        3,
        Scale {
            small_files: 20,
            large_file: 100_000,
            sparse_file: 1 << 20,
        },
    )
    .unwrap();
    bench.backup(&source);
    let before = bench.sums("s");
    for damage in ["gone", "torn"] {
        match damage {
            "gone" => fs::remove_file(bench.at("s/index")).unwrap(),
            _ => fs::write(bench.at("s/index"), vec![7; 100_000]).unwrap(),
        }
        let recovered = bench.json(&["recover", "s"]);
        assert_eq!(recovered["chunks"], before["chunks"], "{damage}");
        assert_eq!(bench.sums("s"), before, "{damage}");
    }
    // whatever needs it makes it, and says so
    fs::remove_file(bench.at("s/index")).unwrap();
    for told in ["strongroom: the index of s was made anew\n", ""] {
        assert_eq!(bench.ends(&["stats", "s"], 0).1, told);
    }
    bench.good(&["restore", "s", "--key-file", "k", "latest", "back"]);
    assert_eq!(compare(&source, &bench.at("back")).unwrap().differences, []);
}

#[test]
fn what_may_not_be_read_is_listed_and_the_rest_is_kept() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    for name in ["closed", "open"] {
        fs::write(source.join(name), name).unwrap();
    }
    fs::hard_link(source.join("closed"), source.join("its-other-name")).unwrap();
    fs::set_permissions(source.join("closed"), Permissions::from_mode(0o0)).unwrap();
    let arguments = ["backup", "s", "--key-file", "k", "--group", "g", "source"];
    let mut command = bench.command(&arguments);
    if fs::metadata(&source).unwrap().uid() == 0 {
        // root may read everything; somebody else owns and runs it here
        let everything = Command::new("chown")
            .args(["-R", "65534:65534"])
            .arg(bench.temp.path())
            .status();
        assert!(everything.unwrap().success());
        chown(source.join("closed"), Some(65533), None).unwrap();
        command.uid(65534).gid(65534);
    }
    let (_, error) = told(&command.output().unwrap(), 1);
    assert!(error.starts_with("2 problems:\n"), "{error}");
    assert!(
        error.contains("closed: cannot be opened (Permission denied)"),
        "{error}"
    );
    assert!(error.contains("its-other-name: cannot"), "{error}");
    bench.good(&["restore", "s", "--key-file", "k", "latest", "back"]);
    assert_eq!(fs::read_to_string(bench.at("back/open")).unwrap(), "open");
    assert_eq!(fs::read_dir(bench.at("back")).unwrap().count(), 1);
    let listed = bench.json(&["snapshots", "s", "--key-file", "k"]);
    assert_eq!(listed["snapshots"][0]["problem_count"], 2);
}

#[test]
fn a_long_file_is_read_in_parts_and_comes_back_whole() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    let lines = |count: u64| -> String { (0..count).map(|i| format!("{}\n", i * i)).collect() };
    let text = lines(7_000_000);
    assert!(text.len() > 80 << 20);
    let file = fs::File::create(source.join("long")).unwrap();
    file.write_all_at(text.as_bytes(), 0).unwrap();
    file.write_all_at(b"after a hole", 1 << 30).unwrap();
    fs::hard_link(source.join("long"), source.join("the same")).unwrap();
    let first = bench.backup(&source);
    // what is moved is found again, but for a chunk here and there
    let moved = ["something before\n", &text].concat();
    fs::write(source.join("moved"), moved).unwrap();
    let second = bench.backup(&source);
    let number = |of: &Value, name: &str| of[name].as_u64().unwrap();
    assert!(number(&first, "unique") > 80 << 20, "{first}");
    assert!(number(&second, "unique") < 1 << 20, "{second}");
    bench.restore_latest("back");
    let compared = compare(&source, &bench.at("back")).unwrap();
    assert_eq!(compared.differences, []);
}

#[test]
fn holes_of_a_hundred_gigabytes_are_nothing() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    let length = 100_000_000_000;
    let places = [0, 1 << 30, 50_000_000_001, length - 9];
    let file = fs::File::create(source.join("sparse")).unwrap();
    file.set_len(length).unwrap();
    for at in places {
        file.write_all_at(b"some data", at).unwrap();
    }
    let taken = file.metadata().unwrap().blocks();
    if taken > 1 << 20 {
        println!("skipped: the temporary directory's file system makes no holes");
        return;
    }
    fs::write(source.join("empty"), b"").unwrap();
    let made = bench.backup(&source);
    assert!(made["logical"].as_u64() < Some(1 << 20), "{made}");
    let restore = [
        "restore",
        "s",
        "--key-file",
        "k",
        "latest",
        "back",
        "--verify",
    ];
    let restored = bench.json(&restore);
    // data, without the holes
    assert_eq!(restored["reread_bytes"], restored["bytes"]);
    assert!(restored["bytes"].as_u64() < Some(1 << 20), "{restored}");
    let back = fs::File::open(bench.at("back/sparse")).unwrap();
    let found = back.metadata().unwrap();
    assert_eq!((found.len(), found.blocks()), (length, taken));
    for at in places {
        let mut bytes = [0; 9];
        back.read_exact_at(&mut bytes, at).unwrap();
        assert_eq!(&bytes, b"some data", "at {at}");
    }
    assert_eq!(fs::metadata(bench.at("back/empty")).unwrap().len(), 0);
}

#[test]
fn who_reads_no_further_is_told_nothing() {
    let bench = Bench::new();
    let mut command = bench.command(&["stats", "s"]);
    let mut stats = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(stats.stdout.take());
    let ended = stats.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}

#[test]
fn a_backup_leaves_its_own_datastore_out() {
    let bench = Bench::new();
    for path in ["s", "s/packs"] {
        let all = ["backup", "s", "--key-file", "k", "--group", "g", path];
        let (_, error) = bench.ends(&all, 2);
        assert!(
            error.contains("is the datastore itself, or in it"),
            "{error}"
        );
    }
    fs::write(bench.at("file"), "x").unwrap();
    let all = bench.temp.path().to_str().unwrap();
    let all = ["backup", "s", "--key-file", "k", "--group", "g", all];
    let (_, error) = bench.ends(&all, 0);
    let words = "/s is the datastore itself, and left out\n";
    assert!(error.ends_with(words), "{error}");
    let outside = TempDir::new().unwrap();
    let target = outside.path().to_str().unwrap();
    bench.good(&["restore", "s", "--key-file", "k", "latest", target]);
    let names = fs::read_dir(target).unwrap();
    let mut names: Vec<_> = names.map(|n| n.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["file", "k"]);
}

#[test]
fn what_is_forgotten_makes_room_once_it_is_collected() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    let noise: Vec<u8> = (0..3_000_000).map(noise_byte).collect();
    fs::write(source.join("a"), &noise).unwrap();
    let first = bench.backup(&source);
    fs::remove_file(source.join("a")).unwrap();
    fs::write(source.join("b"), b"small").unwrap();
    let second = bench.backup(&source);
    let id = |of: &Value| of["snapshot"].as_str().unwrap().to_owned();

    let (_, refused) = bench.ends(&["prune", "s"], 2);
    assert!(refused.contains("--keep-daily"), "{refused}");
    let planned = bench.json(&["prune", "s", "--keep-last", "1", "--dry-run"]);
    assert_eq!(planned["forgotten"], serde_json::json!([id(&first)]));
    assert_eq!(planned["kept"][0]["rules"][0], "last");
    // names are sealed, ids are not; both tables say the same
    let group = |arguments: &[&str]| {
        let table = bench.good(arguments);
        let row = table.lines().nth(1).unwrap();
        row.split_whitespace().nth(4).unwrap().to_owned()
    };
    let (prune, key) = (
        ["prune", "s", "--keep-last", "1", "--dry-run"],
        ["--key-file", "k"],
    );
    assert_eq!(group(&[&prune[..], &key].concat()), "g");
    assert_eq!(group(&[&["snapshots", "s"][..], &key].concat()), "g");
    let of_id = bench.json(&["snapshots", "s"])["snapshots"][0]["group_id"].clone();
    let of_id = &of_id.as_str().unwrap()[..8];
    assert_eq!([group(&prune), group(&["snapshots", "s"])], [of_id, of_id]);
    assert_eq!(
        bench.json(&["snapshots", "s"])["snapshots"]
            .as_array()
            .unwrap()
            .len(),
        2
    );

    bench.good(&["lock", "s", &id(&first), "--until", "2099-01-01"]);
    let (_, refused) = bench.ends(&["lock", "s", &id(&first), "--until", "2098-01-01"], 2);
    assert!(refused.contains("later"), "{refused}");
    let (_, refused) = bench.ends(&["forget", "s", &id(&first)], 2);
    assert!(refused.contains("is locked until"), "{refused}");
    let kept = bench.json(&["prune", "s", "--keep-last", "1"]);
    assert_eq!(kept["kept"][1]["rules"][0], "locked");
    let listed = bench.json(&["snapshots", "s"]);
    assert!(listed["snapshots"][1]["locked_until"].as_i64() > Some(4_000_000_000));

    fs::remove_file(bench.at(&format!("s/snapshots/{}.lock", id(&first)))).unwrap();
    bench.good(&["forget", "s", &id(&first)[..8]]);
    let before = bench.taken();
    let planned = bench.json(&["gc", "s", "--dry-run"]);
    assert_eq!(bench.taken(), before);
    let done = bench.json(&["gc", "s"]);
    assert_eq!(
        (planned["freed"].as_u64(), planned["dry_run"].as_bool()),
        (done["freed"].as_u64(), Some(true))
    );
    assert!(done["freed"].as_u64() > Some(2_900_000), "{done}");
    assert!(
        bench.taken() + 2_900_000 < before,
        "{} of {before}",
        bench.taken()
    );
    let back = [
        "restore",
        "s",
        "--key-file",
        "k",
        &id(&second),
        "back",
        "--verify",
    ];
    bench.good(&back);
    bench.good(&["verify", "s", "--key-file", "k"]);
}

/// A byte of noise.
fn noise_byte(number: u32) -> u8 {
    let mixed = u64::from(number)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 56) as u8
}
