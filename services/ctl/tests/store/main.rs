//! `strongroom store` as it is typed: what it does, says, and exits with.

mod bench;
mod copies;
mod mounted;
mod schema;

use bench::{Bench, told};
use engine::storage::directory::Directory;
use engine::{Options, Store};
use filetree::compare::compare;
use filetree::specimen::{self, Scale};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;
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
    let (_, error) = bench.ends(&part("b", "nowhere"), 2);
    assert!(
        error.contains("the snapshot holds no b; `--path` names"),
        "{error}"
    );
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
            "the key file none cannot be read: No such file",
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
            "the datastore has no snapshot yet",
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
    assert!(!bench.at("k3").exists(), "no key of a store that is not");
    assert_eq!(bench.json(&["stats", "s"])["chunks"], 0);
}

#[test]
fn a_datastore_in_use_says_by_whom() {
    let bench = Bench::new();
    let directory = Directory::open(&bench.at("s")).unwrap();
    let held = Store::open(Arc::new(directory), Options::default()).unwrap();
    let (_, error) = bench.ends(&["snapshots", "s"], 2);
    let words = format!("is in use by process {}; wait", std::process::id());
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
    let id = bench.backup(&source)["snapshot"].clone();
    let id = id.as_str().unwrap();
    let largest = bench
        .packs()
        .into_iter()
        .max_by_key(|p| p.metadata().unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    bytes[20_000] ^= 1;
    fs::write(&largest, &bytes).unwrap();
    let restore = ["restore", "s", "--key-file", "k", id, "back"];
    let (_, error) = bench.ends(&restore, 1);
    assert!(error.contains("1 problems:\n  large: chunk "), "{error}");
    assert_eq!(fs::read_to_string(bench.at("back/small")).unwrap(), "kept");
    assert!(!bench.at("back/large").exists());
    let (out, error) = bench.ends(&["verify", "s"], 1);
    assert!(
        out.contains("1 chunks damaged, 0 missing, 1 snapshots affected"),
        "{out}"
    );
    assert!(
        error.contains(&format!("snapshot {id}: not all of it")),
        "{error}"
    );
    // the next backup stores anew what is broken, and heals the snapshot
    bench.backup(&source);
    bench.good(&["restore", "s", "--key-file", "k", id, "back2"]);
    assert_eq!(
        compare(&source, &bench.at("back2")).unwrap().differences,
        []
    );
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
fn a_backup_leaves_its_own_datastore_out() {
    let bench = Bench::new();
    fs::write(bench.at("file"), "x").unwrap();
    bench.backup(bench.temp.path());
    let outside = TempDir::new().unwrap();
    let target = outside.path().to_str().unwrap();
    bench.good(&["restore", "s", "--key-file", "k", "latest", target]);
    let names = fs::read_dir(target).unwrap();
    let mut names: Vec<_> = names.map(|n| n.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["file", "k"]);
}
