//! `strongroom store copy` and `repair`: one more copy of a datastore, and what it is good for.

use crate::bench::Bench;
use filetree::compare::compare;
use filetree::specimen::{self, Scale};
use serde_json::json;
use std::fs;

#[test]
fn a_copy_is_made_kept_up_to_date_and_restored_from() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    specimen::create(&source, 3, Scale::default()).unwrap();
    let first = bench.backup(&source);
    // no key is there for it
    fs::rename(bench.at("k"), bench.at("elsewhere")).unwrap();
    let copied = bench.json(&["copy", "s", "far/away"]);
    assert_eq!(copied["snapshots"], json!([first["snapshot"]]));
    assert_eq!(
        (&copied["present"], &copied["problem_count"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(copied["frames"], bench.sums("s")["chunks"]);
    fs::rename(bench.at("elsewhere"), bench.at("k")).unwrap();
    specimen::mutate(&source, 3).unwrap();
    bench.backup(&source);
    let said = bench.good(&["copy", "s", "far/away"]);
    let words = "1 snapshot copied to far/away, 1 there already; ";
    assert!(said.starts_with(words), "{said}");
    assert_eq!(bench.sums("far/away"), bench.sums("s"));
    let restore = ["restore", "far/away", "--key-file", "k", "latest", "back"];
    bench.good(&restore);
    assert_eq!(compare(&source, &bench.at("back")).unwrap().differences, []);
    let superblock = |dir: &str| fs::read(bench.at(dir).join("datastore")).unwrap();
    // of the profile of the other end, and else the same
    let (near, far) = (superblock("s"), superblock("far/away"));
    assert_eq!((near[12], far[12]), (0, 1));
    assert_eq!(near[16..48], far[16..48]);
}

#[test]
fn what_is_no_copy_is_refused_and_damage_is_told() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let id = bench.backup(&source)["snapshot"].clone();
    bench.good(&["init", "other", "--key-file", "k2"]);
    for (target, words) in [
        ("other", "not a copy of"),
        ("s", "s is the datastore itself; name another directory"),
        ("s/../s", "is the datastore itself"),
        (
            "source",
            "source already holds file; choose an empty directory",
        ),
        ("source/file", "source/file cannot be made"),
    ] {
        let (_, error) = bench.ends(&["copy", "s", target], 2);
        assert!(error.contains(words), "{target}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    // nothing is left in what is somebody else's
    assert!(!bench.at("source/lock").exists());
    bench.ends(&["copy", "missing", "made"], 2);
    assert!(!bench.at("made").exists(), "nothing is made");
    for pack in bench.packs() {
        let mut bytes = fs::read(&pack).unwrap();
        bytes[100] ^= 1;
        fs::write(&pack, &bytes).unwrap();
    }
    let (out, error) = bench.ends(&["copy", "s", "made"], 1);
    assert!(out.starts_with("0 snapshots copied"), "{out}");
    let words = format!("snapshot {}: chunk ", id.as_str().unwrap());
    assert!(error.contains(&words), "{error}");
    bench.good(&["verify", "made"]);
}

#[test]
fn a_datastore_is_healed_from_its_copy_whatever_file_is_damaged() {
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    specimen::create(&source, 3, Scale::default()).unwrap();
    let id = bench.backup(&source)["snapshot"].clone();
    let snapshot = format!("s/snapshots/{}.snap", id.as_str().unwrap());
    bench.good(&["copy", "s", "far"]);
    for pack in bench.packs() {
        let mut bytes = fs::read(&pack).unwrap();
        let step = bytes.len() / 10;
        (step..step * 9).step_by(step).for_each(|at| bytes[at] ^= 1);
        fs::write(&pack, &bytes).unwrap();
    }
    for file in [&snapshot[..], "s/datastore"] {
        let mut bytes = fs::read(bench.at(file)).unwrap();
        bytes[40] ^= 1;
        fs::write(bench.at(file), &bytes).unwrap();
    }
    fs::remove_file(bench.at("s/index")).unwrap();
    let (_, error) = bench.ends(&["repair", "s", "--from", "./s/"], 2);
    assert!(error.contains("is the datastore itself; name"), "{error}");
    let (_, error) = bench.ends(&["verify", "s"], 2);
    assert!(error.contains("s/datastore cannot be used"), "{error}");
    fs::remove_file(bench.at("s/datastore")).unwrap();
    let (_, error) = bench.ends(&["repair", "s"], 2);
    let words = "its file `datastore` is lost; `strongroom store repair s --from DIR2`";
    assert!(error.contains(words), "{error}");
    let repaired = bench.json(&["repair", "s", "--from", "far"]);
    for made in ["datastore_file_mended", "index_made"] {
        assert_eq!(repaired[made], true, "{repaired}");
    }
    assert_eq!(repaired["healed"], json!([id]));
    assert!(repaired["frames"].as_u64() > Some(5), "{repaired}");
    bench.good(&["verify", "s", "--key-file", "k"]);
    bench.good(&["restore", "s", "--key-file", "k", "latest", "back"]);
    assert_eq!(compare(&source, &bench.at("back")).unwrap().differences, []);
    // a datastore file that is gone is no reason to make another datastore
    fs::remove_file(bench.at("s/datastore")).unwrap();
    let (_, error) = bench.ends(&["snapshots", "s"], 2);
    assert!(
        error.contains("its file `datastore` is lost; `strongroom store repair s --from DIR2`"),
        "{error}"
    );
    let repaired = bench.json(&["repair", "s", "--from", "far"]);
    assert_eq!(repaired["datastore_file_mended"], true);
    // there is nothing to do now, and no other datastore is of help
    let said = bench.good(&["repair", "s", "--from", "far", "--key-file", "k"]);
    assert!(
        said.starts_with("0 things found; 0 frames, 0 B stored anew"),
        "{said}"
    );
    bench.good(&["init", "other", "--key-file", "k2"]);
    for own in ["s", "far/../s"] {
        let (_, error) = bench.ends(&["repair", "s", "--from", own], 2);
        assert!(
            error.contains("is the datastore itself; name another"),
            "{error}"
        );
    }
    let (_, error) = bench.ends(&["repair", "s", "--from", "other"], 2);
    assert!(error.contains("cannot be healed from"), "{error}");
}
