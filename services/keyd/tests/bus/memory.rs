//! What stays behind in keyd's memory, and what others could read of it.

use crate::rig::{Rig, enrol, request, taken, text};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// keyd's process.
pub(crate) async fn pid(rig: &Rig) -> u32 {
    let bus = zbus::fdo::DBusProxy::new(rig.keys.inner().connection())
        .await
        .unwrap();
    let name = "org.strongroom.Keys1".try_into().unwrap();
    bus.get_connection_unix_process_id(name).await.unwrap()
}

/// Calls `look` with each piece of writable memory; pieces overlap by 64 bytes.
fn scan(pid: u32, mut look: impl FnMut(u64, &[u8])) {
    let memory = File::open(format!("/proc/{pid}/mem")).expect("to run as root");
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut piece = vec![0; 1 << 20];
    for line in maps.lines().filter(|l| l.contains(" rw-p ")) {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let mut at = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        while at < end {
            let want = piece.len().min((end - at) as usize);
            let Ok(got) = memory.read_at(&mut piece[..want], at) else {
                break;
            };
            if got == 0 {
                break;
            }
            look(at, &piece[..got]);
            at += if got > 64 && at + (got as u64) < end {
                got as u64 - 64
            } else {
                got as u64
            };
        }
    }
}

#[tokio::test]
async fn no_copy_of_a_key_stays_behind() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may read the memory of a process that cannot be dumped");
        return;
    }
    let (centre, mut site) = (Rig::as_unit().await, Rig::as_unit().await);
    let made = enrol(&centre, &site, "msp").await;
    let datastore = text(&made, "datastore");
    let keyset = taken(site.keys.datastore_keyset(&datastore).await);
    assert_eq!(
        taken(
            centre
                .keys
                .release_keyset(&datastore, Default::default())
                .await
        ),
        keyset
    );
    let decoded = format::Keyset::decode(&keyset).unwrap();
    let (_, csr) = request();
    site.keys.issue_agent("a", &csr, "backup").await.unwrap();
    site.keys.sign("session", b"x").await.unwrap();
    let identity = taken(site.keys.site_identity().await.map(|(_, key)| key))[16..48].to_vec();
    let secrets = [
        ("root", site.root().to_vec()),
        (
            "pool",
            taken(
                site.keys
                    .pool_key("main", [("create", true.into())].into())
                    .await,
            ),
        ),
        ("uplink", taken(site.keys.uplink_key().await)),
        ("dedup", decoded.dedup.to_vec()),
        ("epoch", decoded.newest().unwrap().1.to_vec()),
        ("identity", identity),
    ];
    // first as it made its keys, then as it found them
    search(&[&site, &centre], &secrets).await;
    site.stop();
    site.start().await;
    assert_eq!(taken(site.keys.datastore_keyset(&datastore).await), keyset);
    search(&[&site], &secrets[..]).await;
}

/// The root key once, where it is kept; the others not at all. Either half of a key counts: what is
/// freed is often overwritten in part.
async fn search(rigs: &[&Rig], secrets: &[(&'static str, Vec<u8>)]) {
    for (i, rig) in rigs.iter().enumerate() {
        let store = ledger::Ledger::<serde_json::Value>::open(rig.state_dir().join("store"));
        let store = store.unwrap().state.unwrap();
        // the search is not blind: it finds what is no secret
        let public = store["sealed"]["srk"].as_str().unwrap().as_bytes();
        let mut seen = 0;
        let mut copies = BTreeMap::<(&str, usize), BTreeSet<u64>>::new();
        scan(pid(rig).await, |address, piece| {
            let places = |what: &[u8]| {
                let windows = piece.windows(what.len()).enumerate();
                let found = windows.filter(|(_, window)| *window == what);
                found.map(|(at, _)| address + at as u64).collect::<Vec<_>>()
            };
            seen += places(public).len();
            for (name, secret) in secrets {
                for (n, part) in secret.chunks(16).enumerate() {
                    copies.entry((name, n)).or_default().extend(places(part));
                }
            }
        });
        assert!(seen > 0, "the search is blind");
        let wrong: Vec<_> = copies
            .iter()
            .filter(|((name, _), places)| places.len() != usize::from(*name == "root" && i == 0))
            .collect();
        assert!(wrong.is_empty(), "{i}: {wrong:x?}");
    }
}

#[tokio::test]
async fn its_memory_is_locked_and_no_core_is_written() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a user's limit of locked memory is below what keyd maps");
        return;
    }
    let rig = Rig::new().await;
    let pid = pid(&rig).await;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| {
        let found = status.lines().find_map(|l| l.strip_prefix(name));
        found
            .unwrap_or_else(|| panic!("no {name}"))
            .trim()
            .to_owned()
    };
    assert_ne!(
        line("VmLck:"),
        "0 kB",
        "{}",
        rig.appliance.log("strongroom-keyd")
    );
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|l| l.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"));
}
