//! Runs on protected servers: pair, back up, list, restore.

mod command;
mod show;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Backs this server up to a Strongroom appliance.
#[derive(Parser)]
#[command(name = "strongroom-agent", version)]
struct Arguments {
    /// Where the agent keeps its identity and caches
    #[arg(long, global = true, default_value = "/var/lib/strongroom-agent")]
    state: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Pair this server with an appliance, by the code it shows (`strongroom pair`)
    Pair(command::Pair),
    /// Stay connected and back up when the appliance says so
    Serve,
    /// Back up now: a definition of the appliance's for this server, or paths
    Backup(command::Backup),
    /// List the snapshots that can be restored here
    List(command::List),
    /// Restore a snapshot into a directory
    Restore(command::Restore),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        match arguments.command {
            Command::Serve => "info".into(),
            // a command tells its problems itself
            _ => "off".into(),
        }
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time() // the journal has its own clock
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("strongroom-agent cannot start its threads: {error}");
            return ExitCode::from(2);
        }
    };
    let state = arguments.state;
    let ended = runtime.block_on(async {
        match arguments.command {
            Command::Pair(pair) => pair.run(&state).await,
            Command::Serve => command::serve(&state).await,
            Command::Backup(backup) => backup.run(&state).await,
            Command::List(list) => list.run(&state).await,
            Command::Restore(restore) => restore.run(&state).await,
        }
    });
    // a thread that reads a dead disk must not hold the end up
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match ended {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{}", error.in_full());
            ExitCode::from(2)
        }
    }
}
