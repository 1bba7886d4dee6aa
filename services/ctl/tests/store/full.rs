//! A datastore on a disk that is full or write-protected: what is there can be had, and made room of.

use crate::bench::Bench;
use std::fs;
use std::process::Command;

/// Runs with the datastore's disk in a mount namespace of its own.
const ON_A_SMALL_DISK: &str = r#"
set -e
store() { "$strongroom" store "$@"; }
status() { rc=0; "$@" >out 2>&1 || rc=$?; cat out; }
mkdir disk
mount -t tmpfs -o size=24m none disk
head -c 9M /dev/urandom >source/large
store init disk/s --key-file k
store backup disk/s --key-file k --group g source
head -c 40M /dev/zero >disk/foreign 2>/dev/null && exit 9
echo "== a full disk is read"
store snapshots disk/s
store stats disk/s
store verify disk/s --key-file k
store restore disk/s --key-file k latest back
cmp source/large back/large
echo "== a full disk takes nothing"
echo other >source/other
status store backup disk/s --key-file k --group g source
[ $rc = 2 ]
grep -q "the disk of disk/s is full" out
echo "== what is forgotten makes room on it"
ids=$(store snapshots disk/s --json | grep '"id"' | cut -d'"' -f4)
store forget disk/s $ids
store gc disk/s --dry-run
store gc disk/s
[ -z "$(ls disk/s/packs)" ]
store backup disk/s --key-file k --group g source/other
rm disk/foreign
store backup disk/s --key-file k --group g source
echo "== a disk that cannot be written is read"
mount -o remount,ro disk
status store restore disk/s --key-file k latest again
[ $rc = 0 ]
grep -q "disk/s is read as it is, since nothing can be written there: Read-only" out
cmp source/large again/large
store verify disk/s --key-file k
store copy disk/s copy
store gc disk/s --dry-run
store snapshots copy
status store forget disk/s latest
[ $rc = 2 ]
grep -q "mount its file system for writing" out
echo "== done"
"#;

#[test]
fn a_full_disk_and_a_protected_one_are_read() {
    let bench = Bench::new();
    fs::create_dir(bench.at("source")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user"]);
    let command = command.args(["bash", "-c", ON_A_SMALL_DISK]);
    command.env("strongroom", env!("CARGO_BIN_EXE_strongroom"));
    command.env("XDG_CACHE_HOME", bench.caches.path());
    let out = command.current_dir(bench.temp.path()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    let failed = String::from_utf8_lossy(&out.stderr);
    // before anything is tried
    if !said.contains("== ") && (failed.contains("unshare") || failed.contains("mount: ")) {
        println!("skipped: a file system cannot be mounted here ({failed})");
        return;
    }
    println!("{said}{failed}");
    assert!(out.status.success() && said.ends_with("== done\n"));
}
