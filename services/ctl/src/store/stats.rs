//! `strongroom store stats`.

use super::{
    Outcome, answer, group_of, in_parentheses, open_to_read, open_with_key, outcome, show,
};
use anyhow::Result;
use clap::Args;
use engine::SnapshotInfo;
use format::GroupId;
use format::superblock::Profile;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Which datastore.
#[derive(Args)]
pub(crate) struct Stats {
    /// The datastore's directory
    dir: PathBuf,
    /// Its key file, to see the names of groups
    #[arg(long)]
    key_file: Option<PathBuf>,
}

/// Sums over the snapshots of a group.
#[derive(Default)]
struct Group {
    name: Option<String>,
    snapshots: u64,
    newest: i64,
    logical: u64,
    unique: u64,
    stored: u64,
}

impl Stats {
    pub(super) fn run(&self, json: bool) -> Result<Outcome> {
        let store = open_with_key(&self.dir, self.key_file.as_deref(), open_to_read)?;
        let (snapshots, unreadable) = store.snapshots()?;
        let groups = groups(&snapshots);
        let (sums, index) = (store.stats()?, store.index_size()?);
        let (logical, totals) = (sums.logical, sums.totals);
        let profile = match store.superblock().profile {
            Profile::Site => "site",
            Profile::Centre => "centre",
        };
        let documents: Vec<_> = groups
            .iter()
            .map(|(id, group)| group.document(id))
            .collect();
        answer(
            json,
            json!({
                "datastore": store.datastore().to_string(), "profile": profile,
                "snapshots": snapshots.len(),
                "unreadable": unreadable.len(), "logical": logical,
                "chunks": totals.chunks, "unique": totals.unique, "stored": totals.stored,
                "index_memory": index.memory, "index_disk": index.disk, "groups": documents,
            }),
            || {
                println!("Datastore {}", store.datastore());
                println!("Profile   {profile}");
                println!("Snapshots {}", snapshots.len());
                println!("Logical   {}", show::size(logical));
                println!(
                    "Unique    {} in {}",
                    show::size(totals.unique),
                    show::count(totals.chunks, "chunk")
                );
                println!(
                    "Stored    {}{}",
                    show::size(totals.stored),
                    in_parentheses(logical, totals.stored)
                );
                println!(
                    "Index     {} in memory, {} on disk\n",
                    show::size(index.memory),
                    show::size(index.disk)
                );
                let header = ["GROUP", "SNAPSHOTS", "NEWEST", "LOGICAL", "NEW", "STORED"];
                let rows: Vec<_> = groups.iter().map(|(id, group)| group.row(id)).collect();
                show::table(&header, &rows);
                if !unreadable.is_empty() {
                    eprintln!(
                        "{} unreadable and not counted; run `strongroom store verify`",
                        show::count(unreadable.len() as u64, "snapshot")
                    );
                }
            },
        )?;
        Ok(outcome(unreadable.len() as u64))
    }
}

fn groups(snapshots: &[SnapshotInfo]) -> BTreeMap<GroupId, Group> {
    let mut groups: BTreeMap<GroupId, Group> = BTreeMap::new();
    // newest first
    for SnapshotInfo { clear, details } in snapshots {
        let group = groups.entry(clear.group).or_insert_with(|| Group {
            name: details.as_ref().map(|d| d.group.clone()),
            newest: clear.time.seconds,
            ..Group::default()
        });
        group.snapshots += 1;
        for (sum, part) in [
            (&mut group.logical, clear.logical),
            (&mut group.unique, clear.unique),
            (&mut group.stored, clear.stored),
        ] {
            // what snapshots say of themselves may be anything
            *sum = sum.saturating_add(part);
        }
    }
    groups
}

impl Group {
    fn document(&self, id: &GroupId) -> Value {
        json!({
            "group_id": id.to_string(), "group": self.name, "snapshots": self.snapshots,
            "newest": self.newest, "logical": self.logical, "unique": self.unique,
            "stored": self.stored,
        })
    }

    fn row(&self, id: &GroupId) -> Vec<String> {
        vec![
            group_of(self.name.as_deref(), id),
            self.snapshots.to_string(),
            show::time(self.newest),
            show::size(self.logical),
            show::size(self.unique),
            show::size(self.stored),
        ]
    }
}
