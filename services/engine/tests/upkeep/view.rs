//! Looking into a snapshot anywhere gives what going through all of it gives.

use crate::rig::{back_up, entry, files, fresh, noise};
use engine::storage::simulated::Simulated;
use engine::{Error, Kept, Progress, Seen, SnapshotMeta, Store, View};
use format::entry::{Entry, Extent, Kind};
use format::superblock::Profile::Site;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

/// So many entries that there are nodes above the leaves: directories of files whose names sort around
/// the slash, hard links among them.
fn tree() -> Vec<Entry> {
    let mut entries = vec![entry("", Kind::Directory)];
    for dir in 0..60 {
        for dir in [format!("d{dir:02}"), format!("d{dir:02}/sub")] {
            entries.push(entry(&dir, Kind::Directory));
            for file in 0..40 {
                let kind = match (file, dir.len()) {
                    (39, 7) => Kind::HardLink(b"d00/sub/f05".to_vec()),
                    (38, 7) => Kind::HardLink(format!("{dir}/f00").into_bytes()),
                    _ => Kind::File,
                };
                entries.push(entry(&format!("{dir}/f{file:02}"), kind));
            }
        }
        // beside the directory, before and after what it holds
        entries.push(entry(&format!("d{dir:02}-"), Kind::File));
        entries.push(entry(&format!("d{dir:02}.txt"), Kind::Fifo));
    }
    entries.sort_by(|a, b| Entry::cmp_path(&a.path, &b.path));
    entries.retain(|e| !e.path.starts_with(b"d00/sub/f39"));
    entries
}

fn view(store: &Store, entries: &[Entry]) -> View {
    let progress = Arc::new(Progress::default());
    let mut writer = store.begin(SnapshotMeta::default(), progress).unwrap();
    for entry in entries {
        writer.add_entry(entry).unwrap();
    }
    let snapshot = writer.commit(None).unwrap();
    store.view(&snapshot, &Kept::default()).unwrap()
}

fn shown(seen: Option<Seen>) -> Option<(u64, Vec<u8>)> {
    seen.map(|seen| (seen.number(), seen.entry().path.clone()))
}

#[test]
fn entries_are_found_by_number_and_by_path() {
    let store = fresh(&Simulated::new(), &Store::new_keyset().unwrap(), Site);
    let entries = tree();
    let view = view(&store, &entries);
    let numbered = |at: usize| entries.get(at).map(|e| (at as u64, e.path.clone()));
    let mut seen = view.at(0).unwrap();
    for (at, entry) in entries.iter().enumerate() {
        assert_eq!(shown(view.at(at as u64).unwrap()), numbered(at));
        assert_eq!(shown(seen.clone()), numbered(at));
        assert_eq!(seen.as_ref().unwrap().entry(), entry);
        seen = view.after(&seen.unwrap()).unwrap();
        let path = &entry.path[..];
        assert_eq!(shown(view.first_from(path).unwrap()), numbered(at));
        let past = |e: &&Entry| Entry::is_at_or_below(&e.path, path);
        let past = at + entries[at..].iter().take_while(past).count();
        assert_eq!(
            shown(view.first_past(path).unwrap()),
            numbered(past),
            "{path:?}"
        );
        // and from paths that are not there
        let absent = [path, b"+"].concat();
        let from = entries.partition_point(|e| Entry::cmp_path(&e.path, &absent).is_lt());
        assert_eq!(shown(view.first_from(&absent).unwrap()), numbered(from));
    }
    assert!(seen.is_none());
    assert_eq!(shown(view.at(u64::MAX).unwrap()), None);
    assert_eq!(shown(view.first_from(b"z").unwrap()), None);
}

#[test]
fn files_with_several_names_are_counted() {
    let store = fresh(&Simulated::new(), &Store::new_keyset().unwrap(), Site);
    let entries = tree();
    let number = |path: &str| entries.iter().position(|e| e.path == path.as_bytes());
    let further = view(&store, &entries).further_names().unwrap();
    let mut expected = vec![(number("d00/sub/f05").unwrap() as u64, 59)];
    for dir in 0..60 {
        let first = number(&format!("d{dir:02}/sub/f00")).unwrap();
        expected.push((first as u64, 1));
    }
    expected.sort_unstable();
    assert_eq!(further, expected);
    let few = [
        entry("", Kind::Directory),
        entry("a", Kind::HardLink(b"b".to_vec())),
    ];
    // one that leads nowhere, in a tree that is one leaf
    assert_eq!(view(&store, &few).further_names().unwrap(), []);
}

#[test]
fn any_bytes_of_a_file_are_read_and_its_holes_found() {
    let store = fresh(&Simulated::new(), &Store::new_keyset().unwrap(), Site);
    // enough extents for lists of lists, and few enough for none
    for extents in [5u64, 3000] {
        let progress = Arc::new(Progress::default());
        let mut writer = store.begin(SnapshotMeta::default(), progress).unwrap();
        let (mut file, mut content, mut data) = (entry("f", Kind::File), Vec::new(), 0);
        for at in 0..extents {
            let length = 200 + at % 77;
            let extent = if at % 9 == 4 {
                content.resize(content.len() + length as usize, 0);
                Extent::Hole { length }
            } else {
                let bytes = noise(at + 1, length as usize);
                content.extend_from_slice(&bytes);
                data += length;
                let digest = writer.put_chunk(&bytes).unwrap();
                Extent::Data {
                    digest,
                    length: length as u32,
                }
            };
            file.content.push(extent);
        }
        file.size = content.len() as u64;
        writer.add_entry(&file).unwrap();
        let snapshot = writer.commit(None).unwrap();
        let view = store.view(&snapshot, &Kept::default()).unwrap();
        let seen = view.at(0).unwrap().unwrap();
        let step = content.len() / 97;
        for (start, length) in (0..content.len() + step)
            .step_by(step)
            .zip([1, 5000, 70_000].into_iter().cycle())
        {
            let read = view.read(&seen, start as u64, length).unwrap();
            let end = content.len().min(start + length);
            assert_eq!(read, content.get(start..end).unwrap_or_default(), "{start}");
        }
        assert_eq!(view.read(&seen, u64::MAX, 10).unwrap(), []);
        assert_eq!(view.data_in(&seen).unwrap(), data);
        // hole by hole to the end
        let (mut at, mut holes) = (0, 0);
        while at < file.size {
            let hole = view.seek(&seen, at, false).unwrap();
            at = view.seek(&seen, hole, true).unwrap();
            assert!(content[hole as usize..at as usize].iter().all(|b| *b == 0));
            holes += at - hole;
        }
        assert_eq!(holes, file.size - data);
    }
}

#[test]
fn what_is_looked_into_is_not_collected_meanwhile() {
    let store = fresh(&Simulated::new(), &Store::new_keyset().unwrap(), Site);
    let tree = files(100, 1, 2000);
    let snapshot = back_up(&store, 1, &tree).unwrap();
    let view = store.view(&snapshot, &Kept::default()).unwrap();
    store.forget(&[snapshot.clear.id]).unwrap();
    let (end, ended) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let collected = store.collect(&Progress::default());
            end.send(collected.unwrap()).unwrap();
        });
        // it waits, and this is in vain
        assert!(ended.recv_timeout(Duration::from_millis(300)).is_err());
        for (at, (path, chunks)) in tree.iter().enumerate() {
            let seen = view.at(at as u64 + 1).unwrap().unwrap();
            assert_eq!(seen.entry().path, path.as_bytes());
            assert_eq!(view.read(&seen, 0, 9999).unwrap(), chunks.concat());
        }
        drop(view);
        assert!(ended.recv().unwrap().chunks > 100);
    });
    let late = store.view(&snapshot, &Kept::default()).map(drop);
    assert!(matches!(late, Err(Error::NoSnapshot { .. })), "{late:?}");
}
