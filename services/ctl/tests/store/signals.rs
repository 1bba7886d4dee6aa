//! What Ctrl-C does to a command that runs.

use crate::bench::{Bench, told};
use crate::noise_byte;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::inotify;
use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts a command, and waits until it does something to a file in a directory. It is nice, so that we
/// come first then, and may have few files open at first.
fn begun(bench: &Bench, arguments: &[&str], dir: &Path, what: inotify::WatchFlags) -> Child {
    let command = bench.command(arguments);
    let mut nice = Command::new("prlimit");
    nice.args(["--nofile=100:200", "nice", "-n", "19"])
        .arg(command.get_program())
        .args(command.get_args());
    nice.current_dir(bench.temp.path())
        .env("XDG_CACHE_HOME", bench.caches.path());
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, dir, what).unwrap();
    let (out, error) = (Stdio::piped(), Stdio::piped());
    let child = nice.stdout(out).stderr(error).spawn().unwrap();
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    // the directory itself is opened before
    while events.next().unwrap().file_name().is_none() {}
    child
}

#[test]
fn who_interrupts_is_told_what_is_kept_and_what_to_do() {
    use inotify::WatchFlags as On;
    let bench = Bench::new();
    let source = bench.at("source");
    fs::create_dir(&source).unwrap();
    // so much that a signal comes long before the end
    let noise: Vec<u8> = (0..150_000_000).map(noise_byte).collect();
    fs::write(source.join("large"), noise).unwrap();
    let interrupted = |arguments: &[&str], dir: &str, on, signal, words: &str| {
        let child = begun(&bench, arguments, &bench.at(dir), on);
        let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
        let mut limits = limits
            .lines()
            .filter_map(|l| l.strip_prefix("Max open files"));
        let files: Vec<&str> = limits.next().unwrap().split_whitespace().collect();
        assert_eq!(files[..2], ["200", "200"], "the most that it may");
        // as `timeout` does, which is no second Ctrl-C
        for _ in 0..2 {
            kill(Pid::from_raw(child.id() as i32), signal).unwrap();
            std::thread::yield_now();
        }
        let (out, error) = told(&child.wait_with_output().unwrap(), 2);
        assert_eq!(out, "");
        // where a step takes ten seconds, how far it is stands before
        let last = format!("strongroom: interrupted: {words}");
        assert_eq!(error.lines().last(), Some(&*last), "{error}");
    };
    let backup = ["backup", "s", "--key-file", "k", "--group", "g", "source"];
    let words =
        "nothing of this backup is a snapshot; what it stored is found again by the next one";
    interrupted(&backup, "source", On::OPEN, Signal::SIGINT, words);
    assert_eq!(bench.json(&["stats", "s"])["snapshots"], 0);
    bench.good(&backup);
    let restore = ["restore", "s", "--key-file", "k", "latest", "back"];
    let words = "a part of the snapshot may be in back; remove that, and restore again";
    interrupted(&restore, ".", On::CREATE, Signal::SIGINT, words);
    assert!(!bench.at("back/large").exists(), "what is not whole goes");
    fs::remove_dir_all(bench.at("back")).unwrap();
    bench.good(&restore);
    let words = "nothing was changed, and nothing is known; verify again, or with --sample, which reads less";
    let verify = ["verify", "s", "--key-file", "k"];
    interrupted(&verify, "s/packs", On::OPEN, Signal::SIGTERM, words);
    bench.good(&["init", "far", "--key-file", "k"]);
    let words = "what was copied stays; copy again to go on from there";
    let copy = ["copy", "s", "far"];
    interrupted(&copy, "s/packs", On::OPEN, Signal::SIGINT, words);
    bench.good(&copy);
    let words = "what was healed by then is; repair again for the rest";
    let repair = ["repair", "s", "--key-file", "k"];
    interrupted(&repair, "s/packs", On::OPEN, Signal::SIGINT, words);
}
