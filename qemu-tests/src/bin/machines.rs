//! Works on machines from the host: keeps one alive, or looks into one that was left up.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use qemu_tests::wire::Tell;
use qemu_tests::{Boot, Deadline, Machine, Setup, keep, left_up, runs};

const USAGE: &str = "usage: machines boot MACHINE [--firmware] | shell MACHINE [COMMAND...] \
                     | stop [MACHINE...] | keep DIRECTORY";
/// Long enough for any command a person waits for.
const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["keep", dir] => code(keep(dir.as_ref())?),
        ["boot", machine] => boot(Setup::new(machine, Boot::Direct)),
        ["boot", machine, "--firmware"] => boot(Setup::new(machine, Boot::Firmware)),
        ["shell", machine] => shell(machine),
        ["shell", machine, ref command @ ..] => {
            let machine = meet(machine)?;
            carry(&machine, command, false)
        }
        ["stop", ref machines @ ..] => stop(machines),
        _ => bail!(USAGE),
    }
}

fn code(code: i32) -> Result<ExitCode> {
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// A machine to look around in, left up.
fn boot(setup: Setup) -> Result<ExitCode> {
    let name = setup.name.clone();
    if left_up(&name, false)?.is_some() {
        bail!("{name} is up already; stop it first (./dev stop {name})");
    }
    let machine = Machine::create(&runs().join(&name), setup)?;
    machine
        .boot()
        .inspect_err(|_| eprintln!("{}", machine.report()))?;
    machine.leave_up()?;
    println!("{name} is up: ./dev shell {name}, ./dev stop {name}");
    Ok(ExitCode::SUCCESS)
}

fn meet(name: &str) -> Result<Arc<Machine>> {
    let machine = left_up(name, false)?.with_context(|| {
        format!(
            "no machine {name} was left up (those that are: {})",
            names()
        )
    })?;
    machine
        .hand()
        .wait(0, machine.within(5))
        .context("another shell may be open on it")?;
    Ok(Arc::new(machine))
}

fn all() -> Vec<String> {
    let entries = std::fs::read_dir(runs()).into_iter().flatten().flatten();
    entries
        .filter(|e| e.path().join("machine.json").exists())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

fn names() -> String {
    let all = all();
    if all.is_empty() {
        "none".into()
    } else {
        all.join(", ")
    }
}

fn stop(machines: &[&str]) -> Result<ExitCode> {
    let chosen: Vec<String> = if machines.is_empty() {
        all()
    } else {
        machines.iter().map(|&m| m.into()).collect()
    };
    for name in chosen {
        let machine = left_up(&name, false)?;
        machine
            .with_context(|| format!("no machine {name} was left up ({})", names()))?
            .stop_left_up()?;
        println!("{name} is off");
    }
    Ok(ExitCode::SUCCESS)
}

/// An interactive shell: the machine's side makes the terminal, ours passes every key on.
fn shell(name: &str) -> Result<ExitCode> {
    let machine = meet(name)?;
    let stdin = std::io::stdin();
    let Ok(cooked) = tcgetattr(&stdin) else {
        return carry(&machine, &["bash"], true);
    };
    let mut raw = cooked.clone();
    cfmakeraw(&mut raw);
    tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
    let terminal = ["script", "-qec", "TERM=vt220 bash -i", "/dev/null"];
    let result = carry(&machine, &terminal, true);
    tcsetattr(&stdin, SetArg::TCSANOW, &cooked)?;
    result
}

fn carry(machine: &Arc<Machine>, command: &[&str], input: bool) -> Result<ExitCode> {
    let by = Deadline::after(DAY);
    let mut running = machine.start(command)?;
    let feed = running.input();
    if input {
        // Ends with the process: a read of the terminal cannot be called off.
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = std::io::stdin().read(&mut piece) {
                if feed.write(&piece[..n], by).is_err() {
                    return;
                }
            }
            feed.close();
        });
    } else {
        feed.close();
    }
    loop {
        match running.next(by)? {
            Tell::Out(_, bytes) => {
                let mut out = std::io::stdout().lock();
                out.write_all(&bytes)?;
                out.flush()?;
            }
            Tell::Err(_, bytes) => std::io::stderr().write_all(&bytes)?,
            Tell::Ended(_, ended) => return code(ended),
            _ => {}
        }
    }
}
