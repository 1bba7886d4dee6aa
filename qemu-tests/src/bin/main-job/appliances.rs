//! The two appliances: how they are made, and asking them by their own command line.

use crate::screen::Screen;
use anyhow::{Context, Result, anyhow, bail};
use qemu_tests::wire::Tell;
use qemu_tests::{Boot, Machine, Setup, runs};
use serde_json::Value as Json;
use std::path::Path;

/// The portal's TCP port on an appliance.
pub(crate) const PORTAL: u16 = 7443;
/// The centre's address on the cable between the two, as sites reach it.
pub(crate) const CENTRE: &str = "10.77.0.1";
const SITE: &str = "10.77.0.2";
const DISK: u64 = 4 << 30;

pub(crate) struct Appliances {
    pub(crate) centre: Machine,
    pub(crate) site: Machine,
}

impl Appliances {
    /// Makes both anew, switched off. A cable between them stands for the internet.
    pub(crate) fn create() -> Result<Appliances> {
        let cable = runs().join("internet");
        let machine = |name: &str, first: bool, address: &str| {
            let directory = runs().join(name);
            if directory.exists() {
                std::fs::remove_dir_all(&directory)
                    .with_context(|| directory.display().to_string())?;
            }
            let setup = Setup::new(name, Boot::Firmware)
                .disk("bay1", DISK)
                .disk("bay2", DISK)
                .forward(PORTAL)
                .cable(&cable, first, &format!("{address}/24"));
            Machine::create(&directory, setup).map_err(anyhow::Error::from)
        };
        Ok(Appliances {
            centre: machine("centre", true, CENTRE)?,
            site: machine("site", false, SITE)?,
        })
    }

    /// What happened in each, for a failure.
    pub(crate) fn report(&self) -> String {
        self.centre.report() + &self.site.report()
    }
}

/// `strongroom --json WORDS` on a machine: its document.
pub(crate) fn ask(machine: &Machine, words: &[&str]) -> Result<Json> {
    watched(machine, words, "", |_| {})
}

/// The same, showing its progress.
pub(crate) fn ask_shown(screen: &Screen, machine: &Machine, words: &[&str]) -> Result<Json> {
    answer_shown(screen, machine, words, "")
}

/// The same, with a secret typed in rather than in the argument list.
pub(crate) fn answer_shown(
    screen: &Screen,
    machine: &Machine,
    words: &[&str],
    secret: &str,
) -> Result<Json> {
    watched(machine, words, secret, |line| {
        screen.detail(&format!("{}: {line}", machine.name()))
    })
}

/// The refusal of `strongroom WORDS` for this reason; an error when it was not refused, or for
/// another.
pub(crate) fn refusal(machine: &Machine, words: &[&str], reason: &str) -> Result<String> {
    match ask(machine, words) {
        Err(error) if error.root_cause().to_string().contains(reason) => {
            Ok(error.root_cause().to_string())
        }
        Err(error) => Err(error.context(format!("it was to be refused because \"{reason}\""))),
        Ok(answer) => bail!("`strongroom {}` was not refused: {answer}", words.join(" ")),
    }
}

fn watched(
    machine: &Machine,
    words: &[&str],
    input: &str,
    mut show: impl FnMut(&str),
) -> Result<Json> {
    let argv = ["strongroom", "--json"].iter().chain(words);
    let mut running = machine.start(argv)?;
    running
        .input()
        .write(input.as_bytes(), machine.within(300))?;
    running.input().close();
    let (mut out, mut err) = (Vec::new(), String::new());
    loop {
        // how long all of PATH takes nobody knows, but it tells how far it has come
        match running
            .next(machine.within(300))
            .with_context(|| format!("strongroom {}", words[0]))?
        {
            Tell::Out(_, bytes) => out.extend(bytes),
            Tell::Err(_, bytes) => {
                let piece = String::from_utf8_lossy(&bytes).into_owned();
                piece
                    .lines()
                    .filter(|l| !l.trim().is_empty())
                    .for_each(&mut show);
                err += &piece;
            }
            Tell::Ended(_, 0) => break,
            Tell::Ended(_, code) => {
                let said = err
                    .lines()
                    .last()
                    .unwrap_or("it said nothing")
                    .trim_start_matches("strongroom: ");
                let told = anyhow!(said.to_owned());
                return Err(told.context(format!(
                    "{}: `strongroom {}` ended with {code}",
                    machine.name(),
                    words.join(" ")
                )));
            }
            _ => {}
        }
    }
    serde_json::from_slice(&out).with_context(|| {
        format!(
            "{}: `strongroom {}` answered no JSON",
            machine.name(),
            words.join(" ")
        )
    })
}

/// A text of an answer.
pub(crate) fn text<'a>(answer: &'a Json, name: &str) -> Result<&'a str> {
    answer[name]
        .as_str()
        .with_context(|| format!("{name} is missing in {answer}"))
}

/// Looks at `strongroom status` until `ready` of it, each look a round trip of its own.
pub(crate) fn until(machine: &Machine, what: &str, ready: impl Fn(&Json) -> bool) -> Result<Json> {
    let by = machine.within(60);
    loop {
        let status = ask(machine, &["status"])?;
        if ready(&status) {
            return Ok(status);
        }
        if by.left().is_none() {
            bail!(
                "{}: waited {} s for {what}; it says {status:#}",
                machine.name(),
                by.length().as_secs()
            );
        }
    }
}

/// Free of what an earlier run left up.
pub(crate) fn nothing_left_up(name: &str) -> Result<()> {
    if Path::exists(&runs().join(name).join("machine.json")) {
        bail!("{name} is still up from an earlier run; stop it with `./dev stop` first");
    }
    Ok(())
}
