//! `./dev bench`: our engine beside its peers on the same data, and beside what the machine can do.

mod corpus;
mod figures;
mod fresh;
mod limits;
mod machine;
mod measure;
mod report;
mod rounds;
mod scale;
mod sys;
mod tools;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use corpus::Corpus;
use std::path::Path;
use std::process::ExitCode;

/// Measures our engine beside its peers on the same data, and the machine's own limits.
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// A small corpus, for trying the tool; its figures mean nothing
    #[arg(long, global = true)]
    small: bool,
    /// How often everything is measured
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,
}

#[derive(Clone, Subcommand)]
enum Command {
    /// Our engine, its peers and the limits; written to docs/benchmarks.md unless it is small
    All,
    /// Only the engine against the sum of its parts
    Limits,
    /// What each operation takes on a datastore of very many chunks
    Scale {
        /// Chunks, tiny ones
        #[arg(default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
        chunks: u64,
        /// Length of packs; 64 MiB is a site's, less makes as many packs as larger chunks would
        #[arg(long, default_value_t = 2 << 20)]
        pack_size: u32,
        /// Leave out operations with one of these words in their name
        #[arg(long, num_args = 1..)]
        without: Vec<String>,
        /// Only make the datastore: in a process of its own, for the peak of one that began another
        /// counts as that one's
        #[arg(long, hide = true)]
        make: bool,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = here
        .ancestors()
        .nth(2)
        .context("services/bench lies two below")?;
    if let Command::Scale {
        chunks,
        pack_size,
        without,
        make,
    } = &arguments.command
    {
        let work = workspace.join(".cache/scale");
        return match make {
            true => scale::make(&work, *chunks, *pack_size),
            false => scale::run(&work, *chunks, *pack_size, without),
        };
    }
    let bench = workspace.join(".cache/bench");
    let (tools, absent) = tools::all();
    let Some(ours) = tools.iter().find(|tool| tool.name == tools::OURS) else {
        bail!(
            "{}; `./dev bench` builds it and says where it is",
            absent.join("; ")
        );
    };
    let scale = match arguments.small {
        true => &corpus::SMALL,
        false => &corpus::FULL,
    };
    let corpus = Corpus::at(&bench, scale)?;
    let work = bench.join("work");
    // what an interruption left
    corpus::remove(&work)?;
    std::fs::create_dir_all(&work)?;
    let machine = machine::Machine::look(workspace)?;
    let may_mount = matches!(arguments.command, Command::All) && fresh::may_mount(&work);
    let measured = (|| {
        let results = match arguments.command {
            Command::All => Some(rounds::run(
                &corpus,
                &tools,
                &work,
                arguments.runs,
                may_mount,
            )?),
            _ => None,
        };
        let limits = limits::run(&corpus, ours, &work, arguments.runs)?;
        anyhow::Ok((results, limits))
    })();
    // ten gigabytes that nobody needs, whatever came of it
    corpus::remove(&work)?;
    let (results, limits) = measured?;
    let report = report::Report {
        machine,
        corpus: &corpus,
        tools: &tools,
        absent: &absent,
        limits,
        runs: arguments.runs,
        may_mount,
    };
    let Some(results) = results else {
        print!("{}", report.limits());
        return Ok(());
    };
    let text = report.all(&results)?;
    print!("{text}");
    if !arguments.small {
        let file = workspace.join("docs/benchmarks.md");
        std::fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    Ok(())
}
