//! What newcomers stumble over: each is told what it is and what to do.

use crate::bench::{Bench, told};
use crate::mounted::Mounted;
use std::fs::{self, File};
use std::process::Command;

#[test]
fn where_nothing_can_be_printed_a_sentence_says_so() {
    let bench = Bench::new();
    let to_a_full_disk = |arguments: &[&str]| {
        let mut command = bench.command(arguments);
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let (_, error) = told(&command.output().unwrap(), 2);
        let words = "strongroom: standard output cannot be written (No space left on device";
        assert!(error.starts_with(words), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
    };
    to_a_full_disk(&["stats", "s"]);
    to_a_full_disk(&["stats", "s", "--json"]);
    to_a_full_disk(&["--help"]);
    let Some(mounted) = Mounted::new(&bench, &[]) else {
        return;
    };
    drop(mounted);
    to_a_full_disk(&["mount", "s", "--key-file", "k", "m"]);
    // what a mount leaves whose process is gone cannot be listed
    assert_eq!(fs::read_dir(bench.at("m")).unwrap().count(), 0);
}

#[test]
fn a_key_that_cannot_be_written_in_full_is_not_left() {
    let bench = Bench::new();
    let init = bench.command(&["init", "new", "--key-file", "k2"]);
    // no byte of any file, as on a full disk
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh"])
        .arg(init.get_program())
        .args(init.get_args())
        .current_dir(bench.temp.path());
    let (_, error) = told(&limited.output().unwrap(), 2);
    assert!(
        error.contains("the key file k2 cannot be written: File too large"),
        "{error}"
    );
    assert!(!bench.at("k2").exists() && !bench.at("new").exists());
}

#[test]
fn a_second_datastore_of_a_key_is_said_to_be_a_copy() {
    let bench = Bench::new();
    let said = bench.good(&["init", "other", "--key-file", "k", "--profile", "centre"]);
    assert!(
        said.contains("Its key in k was there already, so it is another copy"),
        "{said}"
    );
    let said = bench.good(&["init", "new", "--key-file", "k2"]);
    assert!(
        said.contains("Without that file nothing can be restored"),
        "{said}"
    );
    for (dir, profile) in [("s", "site"), ("other", "centre")] {
        let said = bench.good(&["stats", dir]);
        assert!(said.contains(&format!("\nProfile   {profile}\n")), "{said}");
        assert_eq!(bench.json(&["stats", dir])["profile"], profile);
    }
}

#[test]
fn where_nothing_is_stored_or_freed_no_ratio_and_no_sum_is_made_of_it() {
    let bench = Bench::new();
    fs::create_dir(bench.at("empty")).unwrap();
    let backup = ["backup", "s", "--key-file", "k", "--group", "g", "empty"];
    for command in [&["stats", "s"][..], &backup, &backup, &["stats", "s"]] {
        let said = bench.good(command);
        assert!(
            !said.contains(['(', '-']) || said.contains("GROUP"),
            "{said}"
        );
        assert!(!said.contains(":1)"), "{said}");
    }
    fs::write(bench.at("empty/text"), "text ".repeat(10_000)).unwrap();
    let said = bench.good(&backup);
    assert!(said.contains(" stored (") && said.contains(":1)"), "{said}");
    for gc in [&["gc", "s"][..], &["gc", "s", "--dry-run"]] {
        assert_eq!(bench.good(gc), "There is no garbage.\n");
    }
    bench.good(&["forget", "s", "latest"]);
    let said = bench.good(&["gc", "s"]);
    assert!(said.contains("needed by no snapshot"), "{said}");
}

#[test]
fn a_group_has_a_name_of_255_bytes_at_the_most() {
    let bench = Bench::new();
    let (longest, longer) = ("x".repeat(255), "x".repeat(256));
    let backup = |group| ["backup", "s", "--key-file", "k", "--group", group, "k"];
    bench.good(&backup(&longest));
    let (_, error) = bench.ends(&backup(&longer), 2);
    assert!(
        error.contains("it has 256 bytes; name it with 1 to 255"),
        "{error}"
    );
}
