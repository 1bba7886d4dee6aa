//! `strongroom`, the command line.

mod appliance;
mod store;

use clap::Parser;
use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;

/// Strongroom: backups of this site, their offsite copies, and restores.
#[derive(Parser)]
#[command(name = "strongroom", version)]
struct Arguments {
    /// Answer with one JSON document
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    #[command(flatten)]
    Appliance(appliance::Command),
    /// A datastore in a directory of this machine, without any daemon
    Store {
        #[command(subcommand)]
        command: store::Command,
    },
}

/// Ends for that standard output takes no more. Who pipes it into `head` has seen enough when that ends: no
/// reason to say anything.
fn tell_unprinted(why: &str) {
    if !why.starts_with("Broken pipe") {
        // where that fails too nobody can be told
        let _ = writeln!(
            io::stderr(),
            "strongroom: standard output cannot be written ({why}); look at what was done before you run it \
             again with another one"
        );
    }
}

/// Why `println!` or `eprintln!` panicked, if it was one of them.
fn unprinted(panic: Option<&str>) -> Option<&str> {
    let (_, why) = panic?
        .strip_prefix("failed printing to std")?
        .split_once(": ")?;
    Some(why)
}

/// What `run` answers; 2 where printing failed, which all that prints is spared from looking at.
fn unless_unprinted(run: impl FnOnce() -> ExitCode) -> ExitCode {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        match unprinted(panic.payload_as_str()) {
            Some(why) => tell_unprinted(why),
            None => usual(panic),
        }
    }));
    // what it had is dropped on the way, so that nothing stays mounted
    panic::catch_unwind(panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        match unprinted(panic.downcast_ref::<String>().map(String::as_str)) {
            Some(_) => ExitCode::from(2),
            None => panic::resume_unwind(panic),
        }
    })
}

fn main() -> ExitCode {
    unless_unprinted(|| {
        let arguments = match Arguments::try_parse() {
            Ok(arguments) => arguments,
            // help too, which clap would print without looking whether that worked
            Err(help) => match help.print() {
                Ok(()) => return ExitCode::from(help.exit_code() as u8),
                Err(error) => {
                    tell_unprinted(&error.to_string());
                    return ExitCode::from(2);
                }
            },
        };
        match run(arguments) {
            Ok(store::Outcome::Done) => ExitCode::SUCCESS,
            Ok(store::Outcome::Incomplete) => ExitCode::from(1),
            Err(error) => {
                eprintln!("strongroom: {error:#}");
                ExitCode::from(2)
            }
        }
    })
}

fn run(arguments: Arguments) -> anyhow::Result<store::Outcome> {
    match arguments.command {
        Command::Appliance(command) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(appliance::run(command, arguments.json))?;
            Ok(store::Outcome::Done)
        }
        Command::Store { command } => store::run(command, arguments.json),
    }
}
