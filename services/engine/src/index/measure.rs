//! What the index costs at a size: `./dev bench index [ROWS]`.

use super::{Index, RUNS, Setting};
use crate::core::pack_name;
use crate::memory::Memory;
use crate::storage::Storage;
use crate::storage::directory::Directory;
use crate::storage::hooked::Hooked;
use format::frame::Kind;
use format::pack::{HEADER_LEN, PackHeader, Record, encode_footer};
use format::{DatastoreId, Digest, PackId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Chunks of a pack of 64 MiB.
const OF_PACK: u64 = 1000;
/// Of each kind.
const LOOKUPS: u64 = 1_000_000;
const DATASTORE: DatastoreId = DatastoreId([1; 16]);

/// A digest as good as random (splitmix64, Steele et al. 2014).
fn digest(number: u64) -> Digest {
    let mut bytes = [0; 32];
    for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
        let mut z = (4 * number + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    Digest(bytes)
}

fn id(pack: u64) -> PackId {
    PackId(u128::from(pack).to_le_bytes())
}

fn records(pack: u64) -> Vec<Record> {
    let record = |number| Record {
        digest: digest(number),
        offset: HEADER_LEN as u32 + (number % OF_PACK) as u32 * 60_000,
        length: 60_000,
        plain_len: 65_536,
        kind: Kind::Data,
    };
    (pack * OF_PACK..(pack + 1) * OF_PACK).map(record).collect()
}

/// Makes a pack with a hole for its frames.
fn write_footer(storage: &dyn Storage, pack: u64) {
    let header = PackHeader {
        datastore: DATASTORE,
        pack: id(pack),
    };
    let file = storage.create(&pack_name(id(pack))).unwrap();
    file.write_at(&header.encode(), 0).unwrap();
    let footer = encode_footer(&header, &records(pack));
    let end = HEADER_LEN as u64 + OF_PACK * 60_000;
    file.write_at(&footer, end).unwrap();
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = statm.split(' ').nth(1).unwrap();
    pages.parse::<u64>().unwrap() * 4096
}

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
#[ignore = "a measurement: ./dev bench index"]
fn measure() {
    let rows = variable("ROWS", 1_000_000);
    let memory = variable("MEMORY", 3 * rows + (16 << 20));
    let dir = tempfile::tempdir_in(std::env::var_os("DIR").unwrap_or("/var/tmp".into())).unwrap();
    let (storage, reads) = (
        Directory::open(dir.path()).unwrap(),
        Arc::new(AtomicU64::new(0)),
    );
    let count = reads.clone();
    let storage = Hooked::new(storage, move |call| {
        count.fetch_add(u64::from(call.method == "read_at"), Relaxed);
        Ok(())
    });
    for name in [crate::core::PACKS, RUNS] {
        storage.make_dir(name).unwrap();
    }
    storage.create(super::INDEX).unwrap();
    let setting = Setting {
        storage: Arc::new(storage),
        datastore: DATASTORE,
        memory: Memory::new(memory),
        batch: crate::Options::default().index_batch,
        progress: Arc::default(),
        unread: None,
    };
    let before = resident();
    let began = Instant::now();
    let index = Index::open(setting.clone()).unwrap();
    for pack in 0..rows / OF_PACK {
        index.add_pack(id(pack), &records(pack), 0).unwrap();
    }
    let inserted = began.elapsed().as_secs_f64();
    drop(index);
    let settled = began.elapsed().as_secs_f64();
    println!(
        "{rows} rows: {:.0} a second added, {settled:.1} s with the last merge; memory {} MiB",
        rows as f64 / inserted,
        (resident() - before) >> 20,
    );
    let began = Instant::now();
    let index = Index::open(setting.clone()).unwrap();
    let opened = began.elapsed().as_secs_f64();
    let look = |what: &str, first: u64, step: u64, expected: bool| {
        let count = LOOKUPS.min(rows);
        let began = Instant::now();
        reads.store(0, Relaxed);
        for i in 0..count {
            let number = first + i.wrapping_mul(step) % rows;
            assert_eq!(index.find(&digest(number)).unwrap().is_some(), expected);
        }
        println!(
            "  {what}: {:.0} a second, the disk asked {:.4} times for each",
            count as f64 / began.elapsed().as_secs_f64(),
            reads.load(Relaxed) as f64 / count as f64
        );
    };
    println!("  opened in {opened:.3} s");
    look("new, cold", rows, 1, false);
    look("new, warm", rows, 1, false);
    look("known, anywhere", 0, 7_919_777, true);
    // as of an unchanged file: neighbours in a pack
    (0..LOOKUPS.min(rows) / OF_PACK).for_each(|pack| write_footer(&*setting.storage, pack));
    look("known, in order", 0, 1, true);
    let files = setting.storage.list(RUNS).unwrap();
    let length = |name: &String| {
        let file = setting.storage.open(&format!("{RUNS}/{name}")).unwrap();
        file.len().unwrap()
    };
    let disk: u64 = files.iter().map(length).sum();
    println!(
        "  {} runs, {:.1} bytes of disk a row; memory {} MiB, {:.2} bytes a row",
        files.len(),
        disk as f64 / rows as f64,
        (resident() - before) >> 20,
        (resident() - before) as f64 / rows as f64,
    );
}
