//! An agent's backup on its way into this site's own datastore.

use super::{Ended, Line, Who};
use crate::house::House;
use crate::known::{Chunk, InUse};
use crate::store::{Datastore, Draft};
use contract::Error;
use engine::LongContent;
use format::entry::{Entry, Extent};
use format::snapshot::Details;
use format::{Digest, DigestKeys};
use protocol::WireError;
use protocol::digests::Bitmap;
use protocol::intake::{Committed, Event, FromSite, Receiver};
use std::collections::HashMap;
use std::sync::Arc;

/// Digests whose chunks were looked up lately, held twice over.
const LATELY: usize = 1 << 16;

/// Serves a session from the verdict on.
pub(super) fn serve(house: &Arc<House>, agent: &Who, line: &mut Line) -> Result<(), Ended> {
    let store = match house.own() {
        Ok(store) => store,
        Err(error) => {
            line.send(&protocol::session::Verdict::refused(error.text()))?;
            line.linger();
            return Err(error.into());
        }
    };
    line.send(&protocol::session::Verdict::Welcome)?;
    match back_up(house, &store, agent, line) {
        Ok(committed) => Ok(line.send(&FromSite::Committed(committed))?),
        Err(error) => {
            if let Some(sentence) = error.sentence() {
                line.send(&FromSite::failed(sentence))?;
                line.linger();
            }
            Err(error)
        }
    }
}

fn back_up(
    house: &Arc<House>,
    store: &Arc<Datastore>,
    agent: &Who,
    line: &mut Line,
) -> Result<Committed, Ended> {
    let terms = store.terms(&agent.id)?;
    let keys = DigestKeys::new(&terms.digest_key);
    line.send(&FromSite::Terms(terms))?;
    let mut receiver = Receiver::default();
    let Event::Begin(begin) = receiver.receive(line.expect()?)? else {
        return Err(WireError::Unexpected("no beginning").into());
    };
    let known = store.known.of(&agent.id).map_err(|e| side_failed(&e))?;
    let details = Details {
        host: begin.host,
        source: begin.source,
        paths: begin.paths.into_iter().map(|p| p.0).collect(),
        ..Details::default()
    };
    let draft = store.begin(&agent.id, details)?;
    let mut intake = Intake {
        keys,
        known,
        draft,
        content: LongContent::default(),
        lately: Default::default(),
    };
    loop {
        match receiver.receive(line.expect()?)? {
            Event::Have(digests) => {
                let answer = intake.known(&digests)?;
                line.send(&FromSite::Known(answer))?;
            }
            Event::Chunk(bytes) => intake.chunk(&bytes)?,
            Event::Content(extents) => intake.content(extents)?,
            Event::Entry(entry) => intake.entry(*entry)?,
            // what was stored of it is garbage
            Event::Discard => intake.content = LongContent::default(),
            Event::Problem(problem) => intake.draft.problem(&problem.path, &problem.text),
            Event::Alive => {}
            Event::Commit => return intake.commit(house, &begin.run, line.read.count()),
            Event::Begin(_) => return Err(WireError::Unexpected("a second beginning").into()),
        }
        house.check_running()?;
    }
}

fn side_failed(error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => full(),
        _ => Error::Failed(format!(
            "what is known of this agent cannot be used ({error}); run the backup again, which begins it anew if its file is damaged, and look at the pool's health if that fails too"
        )),
    }
}

/// The pool has no room.
pub(crate) fn full() -> Error {
    Error::PoolFull(
        "the pool is full; nothing of this backup is kept as a snapshot and earlier ones are whole: \
         leave more out of the backup, or give this site a larger pool (this release neither adds \
         disks to a pool nor removes snapshots)"
            .into(),
    )
}

struct Intake {
    keys: DigestKeys,
    known: InUse,
    draft: Draft,
    /// Of the entry that follows.
    content: LongContent,
    lately: [HashMap<Digest, Chunk>; 2],
}

impl Intake {
    /// The chunk of this agent's digest, if the agent brought it and the store has it.
    fn find(&mut self, digest: &Digest) -> Result<Option<Chunk>, Ended> {
        let lately = self.lately.iter().find_map(|l| l.get(digest)).copied();
        if let Some(chunk) = lately {
            return Ok(Some(chunk));
        }
        let Some(chunk) = self.known.find(digest).map_err(|e| side_failed(&e))? else {
            return Ok(None);
        };
        if !self.draft.has(&chunk.digest)? {
            return Ok(None);
        }
        self.remember(*digest, chunk);
        Ok(Some(chunk))
    }

    fn remember(&mut self, digest: Digest, chunk: Chunk) {
        if self.lately[0].len() >= LATELY {
            self.lately.swap(0, 1);
            self.lately[0].clear();
        }
        self.lately[0].insert(digest, chunk);
    }

    fn known(&mut self, digests: &[Digest]) -> Result<Bitmap, Ended> {
        let mut bits = Vec::with_capacity(digests.len());
        for digest in digests {
            bits.push(self.find(digest)?.is_some());
        }
        Ok(Bitmap::new(bits))
    }

    fn chunk(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        let digest = self.keys.data(bytes);
        let chunk = Chunk {
            digest: self.draft.put_chunk(bytes)?,
            length: bytes.len() as u32,
        };
        self.known.add(digest, chunk).map_err(|e| side_failed(&e))?;
        self.remember(digest, chunk);
        Ok(())
    }

    fn content(&mut self, mut extents: Vec<Extent>) -> Result<(), Ended> {
        for extent in &mut extents {
            let Extent::Data { digest, length } = extent else {
                continue;
            };
            let why = match self.find(digest)? {
                Some(chunk) if chunk.length == *length => {
                    *digest = chunk.digest;
                    continue;
                }
                Some(_) => "a chunk of another length",
                None => "a chunk that was not sent",
            };
            // or the file forgot what it was told, as one does whose tree is damaged
            self.known.distrust();
            return Err(WireError::Unexpected(why).into());
        }
        Ok(self.draft.extend(&mut self.content, extents)?)
    }

    fn entry(&mut self, mut entry: Entry) -> Result<(), Ended> {
        let content = std::mem::take(&mut self.content);
        Ok(self.draft.add_entry(&mut entry, content)?)
    }

    fn commit(self, house: &Arc<House>, run: &str, wire: u64) -> Result<Committed, Ended> {
        self.known.flush().map_err(|e| side_failed(&e))?;
        let peers = house.peers.clone();
        let sign = |hash: &[u8]| peers.sign("manifest", hash);
        let (clear, details) = self.draft.commit(house.peers.identity()?, sign)?;
        let committed = Committed {
            snapshot: clear.id.0,
            entries: clear.entries,
            logical: clear.logical,
            unique: clear.unique,
            stored: clear.stored,
            wire,
        };
        house.added(clear, details, run);
        Ok(committed)
    }
}
