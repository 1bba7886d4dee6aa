//! Snapshots, their offsite copies and their verification.

use super::{Session, objects, show, told, wait};
use anyhow::{Result, bail};
use clap::Args;
use contract::{EngineProxy, Fields, FieldsExt, Options};

/// Which snapshots.
#[derive(Args)]
pub(crate) struct Filter {
    /// Of this datastore
    #[arg(long)]
    datastore: Option<String>,
    /// Of this group (one protected server)
    #[arg(long)]
    group: Option<String>,
}

pub(super) async fn list(session: &Session, filter: &Filter) -> Result<()> {
    let mut options = Options::new();
    for (name, value) in [("datastore", &filter.datastore), ("group", &filter.group)] {
        if let Some(value) = value {
            options.insert(name, value.as_str().into());
        }
    }
    let snapshots = told(
        "engined",
        EngineProxy::new(&session.bus)
            .await?
            .snapshots(options)
            .await,
    )?;
    session.answer(objects(&snapshots), || {
        let row = |s: &Fields| {
            let offsite = match s.optional::<bool>("offsite") {
                Ok(Some(true)) => "copied",
                Ok(Some(false)) => "not yet",
                _ => "-",
            };
            vec![
                show::text(s, "id"),
                show::time_of(s, "time"),
                show::text(s, "host"),
                show::text(s, "paths"),
                show::text(s, "entries"),
                show::size_of(s, "logical"),
                show::size_of(s, "unique"),
                show::size_of(s, "stored"),
                offsite.to_owned(),
            ]
        };
        let header = [
            "SNAPSHOT", "TIME", "SERVER", "PATHS", "ENTRIES", "LOGICAL", "NEW", "STORED", "OFFSITE",
        ];
        show::table(&header, &snapshots.iter().map(row).collect::<Vec<_>>());
    })
}

async fn datastores(session: &Session) -> Result<Vec<String>> {
    let all = told(
        "engined",
        EngineProxy::new(&session.bus).await?.datastores().await,
    )?;
    Ok(all.iter().map(|d| show::text(d, "id")).collect())
}

pub(super) async fn offsite(session: &Session) -> Result<()> {
    let engine = EngineProxy::new(&session.bus).await?;
    let own = told("engined", engine.datastores().await)?;
    let Some(own) = own.iter().find(|d| show::text(d, "role") == "own") else {
        bail!("there is no datastore of this appliance's own to copy; see `strongroom status`");
    };
    let job = told(
        "engined",
        engine
            .replicate(&show::text(own, "id"), Options::new())
            .await,
    )?;
    let result = wait::wait(session, "engined", &job).await?;
    session.answer(show::object(&result), || {
        println!(
            "{} snapshots copied: {} frames, {} sent, {} frames were there already",
            show::text(&result, "snapshots"),
            show::text(&result, "frames"),
            show::size_of(&result, "wire"),
            show::text(&result, "present"),
        );
    })
}

pub(super) async fn verify(session: &Session, datastore: Option<String>) -> Result<()> {
    let engine = EngineProxy::new(&session.bus).await?;
    let wanted = match datastore {
        Some(datastore) => vec![datastore],
        None => datastores(session).await?,
    };
    let mut reports = Vec::new();
    for datastore in wanted {
        let job = told("engined", engine.verify(&datastore, Options::new()).await)?;
        let mut report = wait::wait(session, "engined", &job).await?;
        report.insert("datastore".into(), contract::field(datastore.as_str()));
        reports.push(report);
    }
    session.answer(objects(&reports), || {
        for report in &reports {
            let damaged = report
                .optional::<u64>("damaged")
                .ok()
                .flatten()
                .unwrap_or(0);
            println!(
                "{}: {} frames, {damaged} damaged",
                show::text(report, "datastore"),
                show::text(report, "frames")
            );
            if damaged > 0 {
                println!("  snapshots affected: {}", show::text(report, "snapshots"));
            }
        }
    })?;
    let damaged = |r: &Fields| r.optional::<u64>("damaged").ok().flatten().unwrap_or(0) > 0;
    if reports.iter().any(damaged) {
        bail!("damage was found; copy the affected snapshots again from the other side");
    }
    Ok(())
}

/// One snapshot from the beginning of its id that a person typed.
pub(super) async fn resolve(session: &Session, typed: &str) -> Result<Fields> {
    let all = told(
        "engined",
        EngineProxy::new(&session.bus)
            .await?
            .snapshots(Options::new())
            .await,
    )?;
    let mut found = all.into_iter();
    let mut found: Vec<_> = match typed {
        "latest" => found.next().into_iter().collect(),
        typed => found
            .filter(|s| show::text(s, "id").starts_with(typed))
            .collect(),
    };
    match (found.pop(), found.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => bail!("there is no snapshot {typed} here; `strongroom snapshots` lists them"),
        (_, more) => bail!(
            "{typed} is the beginning of {} snapshots; type more of it",
            more + 1
        ),
    }
}
