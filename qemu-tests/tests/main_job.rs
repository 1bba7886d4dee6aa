//! The main job as a user starts it, and interrupted.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use qemu_tests::Deadline;

/// `./dev run --once` without its building, in a process group of its own as a shell starts it.
fn main_job() -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_main-job"));
    command.arg("--once").process_group(0);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    child.expect("main-job starts")
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> {
    let out = child.stdout.take().expect("is piped");
    BufReader::new(out).lines().map(|line| {
        let line = line.expect("it says text");
        println!("{line}");
        line
    })
}

#[test]
fn uefi_main_job_holds_from_enrolment_to_a_restore_without_the_site() {
    let mut job = main_job();
    let said: Vec<String> = lines(&mut job).collect();
    assert!(job.wait().expect("it ends").success());
    let with = |words: &[&str]| {
        let all = |line: &&String| words.iter().all(|word| line.contains(word));
        said.iter().filter(all).count()
    };
    for from in ["the site", "the centre"] {
        for which in ["first", "second"] {
            assert_eq!(with(&[which, from, "identical"]), 1, "{which} from {from}");
        }
    }
    assert_eq!(with(&["without the client's share: refused"]), 2);
    assert_eq!(with(&["Every comparison held."]), 1);
    assert_eq!(with(&["first backup  "]), 1, "its row of figures");
}

#[test]
fn uefi_main_job_interrupted_leaves_no_process_behind() {
    let mut job = main_job();
    let group = Pid::from_raw(job.id().cast_signed());
    let runs = qemu_tests::runs().display().to_string();
    let left = || processes(&runs);
    let booting = lines(&mut job).find(|line| line.contains("booting the centre"));
    assert!(booting.is_some(), "it ended early");
    let by = Deadline::after(std::time::Duration::from_secs(60));
    // QEMU, the TPM emulator, and the keeper of both
    while left().len() < 3 {
        assert!(by.left().is_some(), "not started: {:?}", left());
        std::thread::yield_now();
    }
    killpg(group, Signal::SIGINT).expect("the job is ours");
    assert!(!job.wait().expect("it ends").success());
    while !left().is_empty() {
        assert!(by.left().is_some(), "left behind: {:?}", left());
        std::thread::yield_now();
    }
}

/// Command lines of processes that work in this directory.
fn processes(directory: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").expect("/proc is mounted");
    all.flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|words| String::from_utf8_lossy(&words).replace('\0', " "))
        .filter(|words| words.contains(directory))
        .collect()
}
