//! Copying the own datastore to the centre, over a connection that portald dialled.

use crate::house::House;
use crate::session::{Ended, Line};
use crate::store::{Datastore, told};
use contract::Error;
use format::{Digest, SnapshotId};
use protocol::WireError;
use protocol::frame;
use protocol::replication::{FromCentre, Sender, Source, Step, Totals, WINDOW};
use protocol::session::{Challenge, Kind, Open, Proof, Verdict, site_message};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc;

/// What a copy came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Sums of the protocol.
    pub totals: Totals,
    /// Bytes sent, all messages included.
    pub wire: u64,
}

/// How far a copy has come: bytes sent of bytes expected, and what is done now.
pub type Tell<'a> = &'a mut dyn FnMut(u64, u64, String);

/// Copies to the centre every snapshot it has not. Blocks. `cancelled` is asked now and then.
///
/// # Errors
/// The centre refuses or fails, the connection does, or it was cancelled; what arrived stays.
pub fn replicate(
    house: &Arc<House>,
    site: &str,
    stream: UnixStream,
    cancelled: &dyn Fn() -> bool,
    tell: Tell<'_>,
) -> Result<Copied, Error> {
    let store = house.own()?;
    copy(house, &store, site, stream, cancelled, tell).map_err(|ended| match ended {
        Ended::Told(error) => error,
        Ended::Wire(error) => Error::CentreUnreachable(format!(
            "the copy to the centre stopped: {error}; what arrived stays, and the next copy goes on"
        )),
    })
}

fn copy(
    house: &Arc<House>,
    store: &Arc<Datastore>,
    site: &str,
    stream: UnixStream,
    cancelled: &dyn Fn() -> bool,
    tell: Tell<'_>,
) -> Result<Copied, Ended> {
    let mut line = Line::new(stream)?;
    line.send(&Open::new(Kind::Replicate))?;
    let challenge: Challenge = line.expect()?;
    let signature = house
        .peers
        .sign("session", &site_message(&challenge, Kind::Replicate))?;
    line.send(&Proof {
        id: site.to_owned(),
        signature,
    })?;
    match line.expect()? {
        Verdict::Welcome => {}
        Verdict::Refused(sentence) => return Err(Error::NotAuthorised(sentence).into()),
    }
    let mut snapshots = store.snapshots()?;
    // oldest first: each is then a small step from the one before
    snapshots.sort_by_key(|s| (s.time, s.id));
    let sizes = snapshots.iter().map(|s| (s.id, s.stored)).collect();
    let own = snapshots.iter().map(|s| s.id).collect();
    let sender = Sender::new(store.id.0, store.superblock(), own);
    let Line { mut read, write } = line;
    // answers come while we send, so they have a thread of their own; it ends with the stream
    let (answers, from_centre) = mpsc::sync_channel(WINDOW * 2);
    let reader = std::thread::Builder::new()
        .name("answers".into())
        .spawn(move || {
            while let Some(message) = frame::read(&mut read).transpose() {
                let last = message.is_err();
                if answers.send(message).is_err() || last {
                    return;
                }
            }
        })?;
    let mut copier = Copier {
        house,
        sender,
        source: Local(store.clone()),
        write,
        from_centre,
        sizes,
        wire: 0,
        expected: 0,
    };
    let copied = copier.run(cancelled, tell);
    // also after a cut: what the centre confirmed stays confirmed
    let all = copied.is_ok();
    house.offsite.confirm(copier.sender.confirmed(), all)?;
    let _ = copier.write.shutdown(std::net::Shutdown::Both);
    drop(copier);
    let _ = reader.join();
    copied
}

struct Local(Arc<Datastore>);

impl Source for Local {
    type Error = Error;

    fn refs(&mut self, digest: &Digest) -> Result<Vec<Digest>, Error> {
        self.0.refs(digest).map_err(told)
    }

    fn frame(&mut self, digest: &Digest) -> Result<Vec<u8>, Error> {
        self.0.frame(digest).map_err(told)
    }

    fn snapshot(&mut self, id: SnapshotId) -> Result<(Vec<u8>, Digest), Error> {
        self.0.snapshot_file(id)
    }
}

struct Copier<'a> {
    house: &'a Arc<House>,
    sender: Sender,
    source: Local,
    write: UnixStream,
    from_centre: mpsc::Receiver<Result<FromCentre, WireError>>,
    sizes: std::collections::HashMap<SnapshotId, u64>,
    wire: u64,
    expected: u64,
}

impl Copier<'_> {
    fn run(&mut self, cancelled: &dyn Fn() -> bool, tell: Tell<'_>) -> Result<Copied, Ended> {
        let mut out = Vec::new();
        loop {
            if cancelled() {
                return Err(Error::Cancelled(
                    "the copy was cancelled; what arrived stays, and the next copy goes on".into(),
                )
                .into());
            }
            self.house.check_running()?;
            match self.sender.next(&mut self.source)? {
                Step::Send(message) => frame::append(&message, &mut out)?,
                Step::Wait => {
                    self.write_out(&mut out)?;
                    self.tell(tell);
                    match self.from_centre.recv() {
                        Ok(message) => self.take(message?)?,
                        Err(_) => return Err(WireError::Ended.into()),
                    }
                }
                Step::Done => {
                    self.write_out(&mut out)?;
                    self.tell(tell);
                    return Ok(Copied {
                        totals: self.sender.totals(),
                        wire: self.wire,
                    });
                }
            }
            if out.len() >= 256 << 10 {
                self.write_out(&mut out)?;
                self.tell(tell);
            }
            while let Ok(message) = self.from_centre.try_recv() {
                self.take(message?)?;
            }
        }
    }

    /// Writes; when that fails, the centre may have said why before it closed the connection.
    fn write_out(&mut self, out: &mut Vec<u8>) -> Result<(), Ended> {
        let written = std::io::Write::write_all(&mut self.write, out);
        self.wire += out.len() as u64;
        out.clear();
        if let Err(error) = written {
            while let Ok(Ok(message)) = self.from_centre.recv() {
                self.take(message)?;
            }
            return Err(error.into());
        }
        Ok(())
    }

    fn take(&mut self, message: FromCentre) -> Result<(), Ended> {
        if let FromCentre::Failed(sentence) = message {
            return Err(Error::Failed(format!("the centre stopped the copy: {sentence}")).into());
        }
        self.sender.receive(message)?;
        if self.expected == 0 {
            let wanted = self.sender.wanted().into_iter().flatten();
            self.expected = wanted.filter_map(|id| self.sizes.get(&id)).sum();
        }
        Ok(())
    }

    fn tell(&self, tell: Tell<'_>) {
        let totals = self.sender.totals();
        // what snapshots share with earlier ones is counted to those, so this is near enough
        let expected = self.expected.max(totals.bytes);
        let detail = format!(
            "copying offsite: {} frames sent, {} there already, {} snapshots confirmed",
            totals.frames, totals.present, totals.snapshots
        );
        tell(totals.bytes, expected, detail);
    }
}
