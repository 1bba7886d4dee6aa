//! Words that open something: never arguments, which every user of this machine can read in its
//! list of processes, but a line of standard input, or asked for on a terminal.

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{IsTerminal, Read, stdin};
use std::os::fd::AsFd;
use zeroize::Zeroizing;

/// Longer than any share or token.
const LONGEST: usize = 1024;

/// The client's share.
#[derive(Args)]
pub(crate) struct Share {
    /// At a centre, under client custody: ask for the client's share, as printed; `-` says the
    /// same where another argument follows. Off a terminal it is a line of standard input
    #[arg(long, value_name = "-", num_args = 0..=1, default_missing_value = "-")]
    share: Option<String>,
}

impl Share {
    pub(super) fn read(&self) -> Result<Option<Zeroizing<String>>> {
        match self.share.as_deref() {
            None => Ok(None),
            Some("-") => ask("The client's share", false).map(Some),
            Some(_) => bail!(
                "a share is no argument, others could read it in the list of processes; \
                 `--share -` asks for it, or takes it from standard input"
            ),
        }
    }
}

/// One line of standard input; on a terminal `what` is asked for, and what is typed `shown` or not.
pub(super) fn ask(what: &str, shown: bool) -> Result<Zeroizing<String>> {
    let input = stdin();
    let terminal = input.is_terminal();
    // before the question, whose answer may come at once
    let hidden = (terminal && !shown).then(Hidden::new).transpose()?;
    if terminal {
        eprint!("{what}: ");
    }
    let input = File::from(input.as_fd().try_clone_to_owned()?);
    let line = line(input).with_context(|| format!("{what} cannot be read"))?;
    drop(hidden);
    match line.trim() {
        "" => bail!("{what} is missing: the line was empty; give it as it was printed"),
        words => Ok(Zeroizing::new(words.to_owned())),
    }
}

/// Byte by byte: a buffer would keep a copy, and take what comes after the line.
fn line(mut input: impl Read) -> Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::with_capacity(LONGEST));
    let mut byte = [0];
    while input.read(&mut byte)? == 1 && byte != *b"\n" {
        if line.len() == LONGEST || !byte.is_ascii() {
            bail!("this is no line of at most {LONGEST} plain letters; give it as it was printed");
        }
        line.push(byte[0].into());
    }
    Ok(line)
}

/// A terminal that does not show what is typed until this is dropped. Whoever interrupts the
/// question returns to a shell, and shells set the terminal right themselves.
struct Hidden(Termios);

impl Hidden {
    fn new() -> Result<Hidden> {
        let before = tcgetattr(stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(stdin(), OptionalActions::Now, &silent)?;
        Ok(Hidden(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}
