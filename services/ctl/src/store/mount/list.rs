//! What is in a directory.

use super::tree::{Answer, IDS, Item, LATEST, Tree, joined};
use engine::{Seen, View};
use format::entry::Entry;
use fuser::Errno;

/// Longest name that the kernel takes.
pub(super) const LONGEST_NAME: usize = 1024;
/// Where to go on after the two names that each directory has.
const OWN: u64 = 2;

/// The name in a directory that leads to a path below it.
fn name_below<'a>(path: &'a [u8], dir: &[u8]) -> Option<&'a [u8]> {
    if path == dir || !Entry::is_at_or_below(path, dir) {
        return None;
    }
    let rest = &path[dir.len() + usize::from(!dir.is_empty())..];
    rest.split(|b| *b == b'/').next()
}

/// The entry that begins what comes after a name in a directory, by the first entry of it.
fn next_name(view: &View, seen: &Seen, path: &[u8]) -> engine::Result<Option<Seen>> {
    match view.after(seen)? {
        Some(next) if Entry::is_at_or_below(&next.entry().path, path) => view.first_past(path),
        next => Ok(next),
    }
}

impl Tree {
    /// Gives the names in a directory, from the first (0) or where `put` was told to go on, each with
    /// what it is of and where to go on after it, until `put` says that it has enough.
    pub(super) fn list(
        &self,
        ino: u64,
        from: u64,
        mut put: impl FnMut(&Item, &[u8], u64) -> bool,
    ) -> Answer<()> {
        let item = self.item(ino)?;
        // of the directory above the kernel takes any number
        for (at, name) in [b".", &b".."[..]]
            .into_iter()
            .enumerate()
            .skip(from as usize)
        {
            if put(&item, name, at as u64 + 1) {
                return Ok(());
            }
        }
        match item {
            Item::Top => {
                let groups = self.groups.iter().enumerate();
                let groups = groups.map(|(at, group)| (group.name.clone(), Item::Group(at)));
                let all = std::iter::once((IDS.to_owned(), Item::Ids)).chain(groups);
                own(all, from, put)
            }
            Item::Ids => {
                let shown = self.shown.iter().enumerate();
                let ids =
                    shown.map(|(at, shown)| (shown.snapshot.clear.id.to_string(), Item::Id(at)));
                own(ids, from, put)
            }
            Item::Group(group) => {
                let snapshots = self.groups[group].snapshots.iter();
                let roots = snapshots.map(|at| {
                    let root = self.root(*at).unwrap_or(Item::Lost(*at));
                    (self.shown[*at].name.clone(), root)
                });
                let latest = std::iter::once((LATEST.to_owned(), Item::Latest(group)));
                own(latest.chain(roots), from, put)
            }
            item => return self.list_entries(&item, from, put),
        }
        Ok(())
    }

    fn list_entries(
        &self,
        item: &Item,
        from: u64,
        mut put: impl FnMut(&Item, &[u8], u64) -> bool,
    ) -> Answer<()> {
        let (snapshot, dir) = self.directory(item)?;
        let failed = self.failed(snapshot, dir);
        let view = &self.shown[snapshot].view;
        let mut next = match (from.checked_sub(OWN + 1), item) {
            (Some(number), _) => {
                let seen = view.at(number).map_err(&failed)?.ok_or(Errno::ENOENT)?;
                let name = name_below(&seen.entry().path, dir).ok_or(Errno::ENOENT)?;
                next_name(view, &seen, &joined(dir, name)).map_err(&failed)?
            }
            (None, Item::Way(_, seen, _)) => Some(seen.clone()),
            (None, Item::Entry(_, seen)) => view.after(seen).map_err(&failed)?,
            _ => None,
        };
        while let Some(seen) = next {
            let Some(name) = name_below(&seen.entry().path, dir) else {
                break;
            };
            let path = joined(dir, name);
            let on = seen.number().saturating_add(OWN + 1);
            let found = match name.len() {
                0..=LONGEST_NAME => self.named(snapshot, &path, seen.clone()),
                _ => {
                    self.tell(snapshot, &path, "has a name that is too long to be shown");
                    Ok(None)
                }
            };
            let full = match found {
                Ok(None) => false,
                Ok(Some(item)) => put(&item, name, on),
                // the name is there, and who looks at it is told
                Err(_) => put(&Item::Entry(snapshot, seen.clone()), name, on),
            };
            if full {
                break;
            }
            next = next_name(view, &seen, &path).map_err(&failed)?;
        }
        Ok(())
    }
}

/// Gives names of this tree's own.
fn own(
    all: impl Iterator<Item = (String, Item)>,
    from: u64,
    mut put: impl FnMut(&Item, &[u8], u64) -> bool,
) {
    let skipped = from.saturating_sub(OWN);
    for (at, (name, item)) in (skipped..).zip(all.skip(skipped as usize)) {
        if put(&item, name.as_bytes(), at + OWN + 1) {
            return;
        }
    }
}
