//! `strongroom`, the command line.

mod appliance;
mod store;

use clap::Parser;
use std::io::Write;
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

/// What cannot be printed is no panic: who pipes it into `head` has seen enough when that ends, and whoever
/// sends it to a full disk is told.
fn end_where_nothing_can_be_printed() {
    const PRINTING: &str = "failed printing to stdout: ";
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let Some(why) = panic
            .payload_as_str()
            .and_then(|text| text.strip_prefix(PRINTING))
        else {
            return usual(panic);
        };
        if !why.starts_with("Broken pipe") {
            // the command itself may have done what it is for
            let mut error = std::io::stderr();
            let _ = writeln!(
                error,
                "strongroom: what was to be told cannot be printed ({why}); send it elsewhere and look what was done"
            );
        }
        std::process::exit(2);
    }));
}

fn main() -> ExitCode {
    end_where_nothing_can_be_printed();
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Appliance(command) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime
                .map_err(Into::into)
                .and_then(|r| r.block_on(appliance::run(command, arguments.json)))
                .map(|()| store::Outcome::Done)
        }
        Command::Store { command } => store::run(command, arguments.json),
    };
    match result {
        Ok(store::Outcome::Done) => ExitCode::SUCCESS,
        Ok(store::Outcome::Incomplete) => ExitCode::from(1),
        Err(error) => {
            eprintln!("strongroom: {error:#}");
            ExitCode::from(2)
        }
    }
}
