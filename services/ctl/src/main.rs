//! `strongroom`, the command line.

mod appliance;
mod store;

use clap::Parser;
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

/// Who pipes what is printed into `head` has seen enough when that ends: no reason to tell of a panic.
fn end_with_the_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let printing = |text: &str| text.starts_with("failed printing to stdout: Broken pipe");
        if panic.payload_as_str().is_some_and(printing) {
            std::process::exit(2);
        }
        usual(panic);
    }));
}

fn main() -> ExitCode {
    end_with_the_reader();
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
