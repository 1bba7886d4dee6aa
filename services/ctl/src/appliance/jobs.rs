//! Backup definitions, runs, agents and the journal.

use super::{Session, objects, show, told, wait};
use anyhow::Result;
use clap::Subcommand;
use contract::{Fields, FieldsExt, JobsProxy, KeysProxy, Options};
use serde_json::json;
use std::os::unix::ffi::OsStrExt;

/// What can be done with backup definitions.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// Make or replace a backup definition
    Define {
        /// Its name
        name: String,
        /// The protected server: its name, or its id
        #[arg(long)]
        agent: String,
        /// What to back up; repeat for several
        #[arg(long = "path", required = true)]
        paths: Vec<std::path::PathBuf>,
        /// A pattern to leave out; repeat for several
        #[arg(long = "exclude")]
        excludes: Vec<std::ffi::OsString>,
        /// Without the second stage, the offsite copy
        #[arg(long)]
        no_offsite: bool,
    },
    /// Run a definition's stages now and wait for the end
    Run {
        /// The definition
        name: String,
    },
    /// Remove a definition; its snapshots stay
    Remove {
        /// The definition
        name: String,
    },
}

pub(super) async fn list(session: &Session, limit: u32) -> Result<()> {
    let jobs = JobsProxy::new(&session.bus).await?;
    let definitions = told("jobd", jobs.definitions().await)?;
    let history = told("jobd", jobs.history(limit).await)?;
    session.answer(
        json!({ "definitions": objects(&definitions), "runs": objects(&history) }),
        || {
            let row = |d: &Fields| {
                let connected = d
                    .optional::<bool>("connected")
                    .ok()
                    .flatten()
                    .unwrap_or(false);
                vec![
                    show::text(d, "name"),
                    show::text(d, "agent_name"),
                    if connected { "connected" } else { "away" }.to_owned(),
                    show::text(d, "stages"),
                    show::text(d, "paths"),
                ]
            };
            let rows: Vec<_> = definitions.iter().map(row).collect();
            show::table(&["DEFINITION", "SERVER", "AGENT", "STAGES", "PATHS"], &rows);
            println!();
            let row = |r: &Fields| {
                vec![
                    show::time_of(r, "started"),
                    show::text(r, "definition"),
                    show::text(r, "state"),
                    show::text(r, "snapshot"),
                    stages(r)
                        .iter()
                        .map(sentence)
                        .collect::<Vec<_>>()
                        .join("; "),
                ]
            };
            let rows: Vec<_> = history.iter().map(row).collect();
            show::table(
                &["STARTED", "DEFINITION", "STATE", "SNAPSHOT", "STAGES"],
                &rows,
            );
        },
    )
}

fn stages(run: &Fields) -> Vec<Fields> {
    run.optional("stages").ok().flatten().unwrap_or_default()
}

fn sentence(stage: &Fields) -> String {
    let name = show::text(stage, "name");
    match stage
        .optional::<String>("message")
        .ok()
        .flatten()
        .filter(|m| !m.is_empty())
    {
        Some(message) => format!("{name}: {message}"),
        None => format!("{name} {}", show::text(stage, "state")),
    }
}

pub(super) async fn act(session: &Session, action: Action) -> Result<()> {
    let jobs = JobsProxy::new(&session.bus).await?;
    match action {
        Action::Define {
            name,
            agent,
            paths,
            excludes,
            no_offsite,
        } => {
            let paths: Vec<Vec<u8>> = paths
                .iter()
                .map(|p| p.as_os_str().as_bytes().to_vec())
                .collect();
            let excludes: Vec<Vec<u8>> = excludes.iter().map(|e| e.as_bytes().to_vec()).collect();
            let definition = Options::from([
                ("agent", agent.into()),
                ("paths", paths.into()),
                ("excludes", excludes.into()),
                ("offsite", (!no_offsite).into()),
            ]);
            let changed = told("jobd", jobs.define(&name, definition).await)?;
            session.answer(json!({ "changed": changed }), || {
                println!(
                    "{name} {}",
                    if changed {
                        "is defined."
                    } else {
                        "was so already."
                    }
                );
            })
        }
        Action::Run { name } => {
            let job = told("jobd", jobs.run(&name, Options::new()).await)?;
            let run = wait::wait(session, "jobd", &job).await?;
            session.answer(show::object(&run), || {
                println!(
                    "{name}: {}, snapshot {}",
                    show::text(&run, "state"),
                    show::text(&run, "snapshot")
                );
                for stage in stages(&run) {
                    println!("  {}", sentence(&stage));
                    let problems: Vec<String> = stage
                        .optional("problems")
                        .ok()
                        .flatten()
                        .unwrap_or_default();
                    for problem in problems {
                        println!("    {problem}");
                    }
                }
            })
        }
        Action::Remove { name } => {
            let existed = told("jobd", jobs.remove(&name).await)?;
            session.answer(json!({ "existed": existed }), || {
                println!(
                    "{name} {}",
                    if existed {
                        "is removed; its snapshots stay."
                    } else {
                        "was not there."
                    }
                );
            })
        }
    }
}

pub(super) async fn agents(session: &Session) -> Result<()> {
    let agents = told("keyd", KeysProxy::new(&session.bus).await?.agents().await)?;
    session.answer(objects(&agents), || {
        let row = |a: &Fields| {
            vec![
                show::text(a, "id"),
                show::text(a, "name"),
                show::text(a, "scope"),
                show::time_of(a, "paired"),
            ]
        };
        show::table(
            &["AGENT", "NAME", "SCOPE", "PAIRED"],
            &agents.iter().map(row).collect::<Vec<_>>(),
        );
    })
}

pub(super) async fn log(session: &Session, lines: u32, daemon: Option<&str>) -> Result<()> {
    let mut options = Options::from([("lines", lines.into())]);
    if let Some(daemon) = daemon {
        options.insert("daemon", daemon.into());
    }
    let entries = told(
        "jobd",
        JobsProxy::new(&session.bus).await?.log(options).await,
    )?;
    session.answer(objects(&entries), || {
        for entry in &entries {
            let micros = entry.optional::<i64>("time").ok().flatten().unwrap_or(0);
            println!(
                "{} {:<8} {:<7} {}",
                show::time(micros / 1_000_000),
                show::text(entry, "daemon"),
                show::text(entry, "level"),
                show::text(entry, "message"),
            );
        }
    })
}
