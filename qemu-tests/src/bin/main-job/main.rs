//! The main job, end to end: two appliances from the image, a protected server on this host, backup,
//! offsite copy, restore from either, and every byte compared. `./dev run` builds what it needs.

mod appliances;
mod job;
mod screen;
mod server;
mod verdict;

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Backs up, copies offsite and restores on two virtual machines made from the image.
#[derive(Parser)]
#[command(name = "./dev run")]
struct Arguments {
    /// What to protect beside the generated tree (default: about 40 MB of this system's files)
    #[arg(long)]
    protect: Option<PathBuf>,
    /// Shut down at the end; exit 0 only if every comparison held
    #[arg(long)]
    once: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match job::run(arguments.protect.as_deref(), arguments.once) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nthe main job failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
