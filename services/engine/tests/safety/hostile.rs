//! Packs made by somebody who has the keys: digests that are none, references that lead in circles
//! or deeper than any tree, a footer that lies. What reads them ends, tells, and nobody else's
//! snapshot is the worse for it.

use crate::trees::*;
use engine::storage::Storage;
use engine::storage::simulated::Simulated;
use engine::{Error, Progress, Store};
use format::frame::{Compression, Draft, FrameKeys, Kind, OVERHEAD};
use format::pack::{PackHeader, Record, encode_footer};
use format::snapshot::{Clear, Details, Unsigned};
use format::{Digest, Keyset, PackId, SnapshotId};
use std::sync::Arc;

struct Forge {
    keys: Keyset,
    storage: Simulated,
    honest: (SnapshotId, Files),
    pack: Vec<u8>,
    records: Vec<Record>,
}

impl Forge {
    fn new() -> Self {
        let (keys, storage) = (Store::new_keyset().unwrap(), Simulated::new());
        let tree = files(20, 1);
        let id = back_up(&fresh(&storage, &keys), &tree).unwrap();
        let header = header(&keys);
        Self {
            keys,
            storage,
            honest: (id, tree),
            pack: header.encode().to_vec(),
            records: Vec::new(),
        }
    }

    fn frame_keys(&self) -> FrameKeys {
        FrameKeys::new(Arc::new(self.keys.clone()))
    }

    /// Adds a frame that says it has this digest.
    fn frame(&mut self, kind: Kind, digest: Digest, refs: &[Digest]) {
        let at = self.pack.len() as u32;
        let nonce = [digest.0[0]; 24];
        let keys = self.frame_keys();
        let draft = Draft::begin(&mut self.pack, kind, digest, 0, refs, 1, nonce);
        let header = draft.seal(Compression::None, &keys).unwrap();
        self.records.push(Record::of(&header, at));
    }

    /// Puts the pack and a snapshot of this root where they belong; the datastore is then opened.
    fn opened(&mut self, root: Digest) -> (Store, SnapshotId) {
        let footer = encode_footer(&header(&self.keys), &self.records);
        self.pack.extend_from_slice(&footer);
        let id = SnapshotId([9; 16]);
        let clear = Clear {
            datastore: self.keys.datastore_id,
            id,
            group: format::GroupId([0; 16]),
            time: Default::default(),
            root,
            root_check: [0; 16],
            logical: 0,
            entries: 0,
            unique: 0,
            stored: 0,
            lock_until: 0,
            parent: None,
            signer: None,
        };
        let unsigned = Unsigned::new(&clear, &Details::default(), &self.frame_keys(), [8; 24]);
        let snapshot = unsigned.unwrap().finish(None);
        for (name, bytes) in [
            (format!("packs/{}.pack", PackId([5; 16])), &self.pack),
            (format!("snapshots/{id}.snap"), &snapshot),
        ] {
            let file = self.storage.create(&name).unwrap();
            file.write_at(bytes, 0).unwrap();
        }
        (
            Store::open(Arc::new(self.storage.clone()), options()).unwrap(),
            id,
        )
    }

    /// Only this snapshot is told of, with keys for certain, and it cannot be restored. Answers what is
    /// found without.
    fn judge(&mut self, root: Digest) -> Vec<String> {
        let (store, id) = self.opened(root);
        let keyless = store.verify(&Progress::default()).unwrap();
        let told = &keyless.snapshots[..];
        assert!(told == [id] || told.is_empty(), "{keyless:?}");
        store.unlock(&self.keys).unwrap();
        let report = store.verify(&Progress::default()).unwrap();
        assert_eq!(report.snapshots, [id], "{report:?}");
        let error = restored(&store, id).unwrap_err();
        let expected = matches!(error, Error::Content { .. } | Error::NoChunk { .. });
        assert!(expected, "{error}");
        drop(store);
        drop(Store::recover(Arc::new(self.storage.clone()), options()).unwrap());
        let store = opened(&self.storage, &self.keys);
        assert_eq!(restored(&store, self.honest.0).unwrap(), self.honest.1);
        let again = back_up(&store, &self.honest.1).unwrap();
        assert_eq!(restored(&store, again).unwrap(), self.honest.1);
        keyless.findings
    }
}

fn header(keys: &Keyset) -> PackHeader {
    PackHeader {
        datastore: keys.datastore_id,
        pack: PackId([5; 16]),
    }
}

fn name(number: u16) -> Digest {
    let mut digest = [0xee; 32];
    digest[..2].copy_from_slice(&number.to_be_bytes());
    Digest(digest)
}

#[test]
fn references_in_a_circle_end() {
    let mut forge = Forge::new();
    forge.frame(Kind::Node, name(1), &[name(2), name(3)]);
    forge.frame(Kind::Node, name(2), &[name(1)]);
    forge.frame(Kind::Node, name(3), &[name(3), name(3)]);
    // each is sound and leads somewhere: only their digests give them away
    assert_eq!(forge.judge(name(1)), Vec::<String>::new());
}

/// Resident memory of this process, at most since [`forget_peak`] and now, bytes.
fn memory() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    ["VmHWM:", "VmRSS:"].map(|name| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let number: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        number * 1024
    })
}

fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

#[test]
fn references_deeper_than_any_tree_end() {
    let mut forge = Forge::new();
    forge.frame(Kind::Data, name(0), &[]);
    // each with as many as a frame has: held all at once they would take 340 MiB
    for level in 1..=60 {
        forge.frame(Kind::Extents, name(level), &vec![name(level - 1); 1 << 16]);
    }
    let (store, id) = forge.opened(name(60));
    forget_peak();
    let [_, before] = memory();
    store.verify(&Progress::default()).unwrap();
    let [peak, _] = memory();
    assert!(peak - before < 200 << 20, "{}", peak - before);
    store.forget(&[id]).unwrap();
    assert_eq!(store.collect(&Progress::default()).unwrap().chunks, 61);
    let [peak, _] = memory();
    assert!(peak - before < 200 << 20, "{}", peak - before);
}

#[test]
fn a_footer_that_lies_of_frames_is_found_out_without_a_key() {
    let mut forge = Forge::new();
    forge.frame(Kind::Node, name(1), &[name(2)]);
    forge.frame(Kind::Data, name(2), &[]);
    // by its footer the node is data, and refers to nothing
    forge.records[0].kind = Kind::Data;
    assert_eq!(forge.records[1].length as usize, OVERHEAD);
    let findings = forge.judge(name(1)).join("\n");
    assert!(
        findings.contains("not all of it can be restored"),
        "{findings}"
    );
    let told = format!("chunk {} holds other content than its name says", name(1));
    assert!(findings.contains(&told), "{findings}");
}
