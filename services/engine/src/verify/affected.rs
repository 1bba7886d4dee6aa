//! What leads to something that is damaged or missing.

use crate::Store;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::verify::Report;
use format::frame::Frame;
use format::{Digest, PackId};
use std::collections::HashSet;

impl Store {
    /// These and every metadata frame that leads to one of them, found by going through the packs of
    /// metadata as often as that finds more: twice, unless they are out of order.
    pub(super) fn leading_to(
        &self,
        mut bad: HashSet<Digest>,
        metadata: &[PackId],
        progress: &Progress,
    ) -> Result<HashSet<Digest>> {
        let mut before = 0;
        while bad.len() > before {
            before = bad.len();
            for pack in metadata {
                let (frames, _) = self.frames_of(*pack)?;
                for (digest, location) in frames {
                    progress.check()?;
                    if !location.kind.has_refs() || bad.contains(&digest) {
                        continue;
                    }
                    // one that cannot be read was found damaged, or is of no use
                    let Ok(raw) = self.core.read_at(&location) else {
                        continue;
                    };
                    let Ok(frame) = Frame::parse_unchecked(&raw) else {
                        continue;
                    };
                    if frame.refs().any(|needed| bad.contains(&needed)) {
                        bad.insert(digest);
                    }
                }
            }
        }
        Ok(bad)
    }

    /// Notes the snapshots that cannot be restored whole, by all that cannot be read or leads to it.
    pub(super) fn affected(&self, bad: &HashSet<Digest>, report: &mut Report) -> Result<()> {
        for id in self.core.snapshot_ids()? {
            let why = match self.core.info(id) {
                // forgotten since
                Err(Error::NoSnapshot { .. }) => continue,
                Err(error) => error.to_string(),
                Ok(info) => {
                    let root = info.clear.root;
                    match self.core.index.find(&root)? {
                        Some(_) if !bad.contains(&root) => continue,
                        Some(_) => "not all of it can be restored".into(),
                        None => {
                            report.missing.push(root);
                            format!(
                                "not all of it can be restored: chunk {root}, its root, is nowhere"
                            )
                        }
                    }
                }
            };
            report.find(format!("snapshot {id}: {why}"));
            report.snapshots.push(id);
        }
        Ok(())
    }
}
