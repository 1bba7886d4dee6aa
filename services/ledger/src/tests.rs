use super::*;
use proptest::prelude::*;
use std::cell::Cell;
use std::fs;

type Map = std::collections::BTreeMap<String, u64>;

fn map(value: u64) -> Map {
    Map::from([("value".into(), value)])
}

fn saved(path: &Path, values: &[u64]) -> Ledger<Map> {
    let mut ledger = Ledger::open(path).unwrap().ledger;
    for value in values {
        ledger.save(&map(*value)).unwrap();
    }
    ledger
}

/// Dies at the given step; a write it dies in leaves only the first `torn` bytes.
struct DyingDisk {
    steps_left: Cell<u32>,
    torn: usize,
}

impl DyingDisk {
    fn alive(&self) -> io::Result<()> {
        let left = self.steps_left.get();
        self.steps_left.set(left.saturating_sub(1));
        if left == 0 {
            return Err(io::Error::other("power cut"));
        }
        Ok(())
    }
}

impl Disk for DyingDisk {
    fn write_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let part = &bytes[..self.torn.min(bytes.len())];
        RealDisk.write_synced(path, part)?;
        self.alive()?;
        RealDisk.write_synced(path, bytes)
    }

    fn link_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        if let Err(error) = self.alive() {
            // between the removal of the old name and the making of the new one
            let _ = fs::remove_file(to);
            return Err(error);
        }
        RealDisk.link_over(from, to)
    }

    fn rename_synced(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.alive()?;
        RealDisk.rename_synced(from, to)?;
        self.alive()
    }
}

#[test]
fn absent_is_not_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let loaded = Ledger::<Map>::open(dir.path().join("state")).unwrap();
    assert!(loaded.state.is_none() && loaded.recovered.is_none());
    assert_eq!(loaded.ledger.generation(), 0);
}

#[test]
fn the_newest_is_found_and_the_one_before_it_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    assert_eq!(saved(&path, &[1, 2, 3]).generation(), 3);
    let loaded = Ledger::<Map>::open(&path).unwrap();
    assert_eq!(
        (loaded.state, loaded.ledger.generation()),
        (Some(map(3)), 3)
    );
    let before = Ledger::<Map>::open(beside(&path, "prev")).unwrap();
    assert_eq!(before.state, Some(map(2)));
}

#[test]
fn only_its_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    saved(&path, &[1, 2]);
    for file in [path.clone(), beside(&path, "prev")] {
        assert_eq!(
            fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}

#[test]
fn a_lost_newest_falls_back_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    saved(&path, &[1, 2]);
    fs::remove_file(&path).unwrap();
    let loaded = Ledger::<Map>::open(&path).unwrap();
    assert_eq!(loaded.state, Some(map(1)));
    assert!(
        loaded
            .recovered
            .unwrap()
            .contains("state is missing; went back to generation 1")
    );
}

#[test]
fn a_damaged_newest_is_set_aside_and_never_displaces_the_good_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    saved(&path, &[1, 2]);
    fs::write(&path, b"rubbish").unwrap();
    let mut loaded = Ledger::<Map>::open(&path).unwrap();
    loaded.ledger.save(&map(7)).unwrap();
    assert_eq!(fs::read(beside(&path, "corrupt")).unwrap(), b"rubbish");
    let before = Ledger::<Map>::open(beside(&path, "prev")).unwrap();
    assert_eq!(before.state, Some(map(1)));
    let after = Ledger::<Map>::open(&path).unwrap();
    assert!(after.recovered.is_none());
    assert_eq!(after.state, Some(map(7)));
}

#[test]
fn both_damaged_is_an_error_and_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    saved(&path, &[1, 2]);
    fs::write(&path, b"rubbish").unwrap();
    fs::write(beside(&path, "prev"), b"").unwrap();
    assert!(matches!(
        Ledger::<Map>::open(&path),
        Err(Error::Corrupt { .. })
    ));
    assert_eq!(fs::read(&path).unwrap(), b"rubbish");
}

#[test]
fn another_releases_shape_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    saved(&path, &[1, 2]);
    assert!(matches!(
        Ledger::<Vec<u8>>::open(&path),
        Err(Error::Shape { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// Saves, each of which may be cut anywhere, then opens: the last value that was confirmed,
    /// or the one that was being saved when the power went.
    #[test]
    fn a_power_cut_leaves_the_old_or_the_new(
        cuts in proptest::collection::vec((0u32..7, 0usize..200), 1..12)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut confirmed: Option<u64> = None;
        for (value, (steps, torn)) in cuts.into_iter().enumerate() {
            let value = value as u64;
            let disk = DyingDisk { steps_left: Cell::new(steps), torn };
            let mut ledger = Ledger::<Map>::open(&path).unwrap().ledger;
            let done = ledger.save_on(&disk, &map(value)).is_ok();
            let loaded = Ledger::<Map>::open(&path).unwrap();
            prop_assert!(loaded.recovered.is_none());
            let found = loaded.state.map(|m| m["value"]);
            prop_assert!(found == Some(value) || (!done && found == confirmed), "{found:?}");
            confirmed = found;
        }
    }

    /// Any flipped bit or cut tail of the newest is noticed.
    #[test]
    fn damage_is_noticed(position in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        saved(&path, &[1, 2]);
        let mut bytes = fs::read(&path).unwrap();
        let at = position.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        fs::write(&path, &bytes).unwrap();
        let loaded = Ledger::<Map>::open(&path).unwrap();
        prop_assert_eq!(loaded.state, Some(map(1)));
        prop_assert!(loaded.recovered.is_some());
    }

    /// No bytes make opening panic.
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::write(&path, &bytes).unwrap();
        let corrupt = matches!(Ledger::<Map>::open(&path), Err(Error::Corrupt { .. }));
        prop_assert!(corrupt);
    }
}
