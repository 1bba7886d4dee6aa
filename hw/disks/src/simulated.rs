//! A machine of our own behind [`Machine`]: disks, md, LUKS and a mount in memory, driven by the
//! very commands the crate runs. What the real programs answer is held in tests/transcripts.rs.

mod commands;

use crate::md::Level;
use crate::{Machine, Output};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// What is on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Media {
    /// Nothing.
    Blank,
    /// Somebody else's data: a kind as blkid names it and a label.
    Foreign(String, String),
    /// A member of the array of this UUID, with its count of events.
    Member(String, u64),
    /// A LUKS volume directly.
    Volume(Volume),
}

/// A LUKS volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its label.
    pub label: String,
    /// Its key.
    pub key: Vec<u8>,
    /// The label of the file system in it.
    pub file_system: Option<String>,
}

/// A disk of the simulated machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedDisk {
    /// Its serial number.
    pub serial: String,
    /// Bytes.
    pub size: u64,
    /// Whether it is plugged in.
    pub present: bool,
    /// What is on it.
    pub media: Media,
}

/// What an array is, running or not.
#[derive(Clone, Debug)]
struct Makeup {
    name: String,
    level: Level,
    disks: u32,
    events: u64,
    /// How many disks were in it at its last change.
    working: u32,
    volume: Option<Volume>,
}

/// A running array.
#[derive(Clone, Debug)]
struct Running {
    uuid: String,
    active: bool,
    /// Disk names and whether md has failed them.
    slots: Vec<(String, bool)>,
}

#[derive(Default)]
struct State {
    disks: BTreeMap<String, SimulatedDisk>,
    makeups: BTreeMap<String, Makeup>,
    running: BTreeMap<String, Running>,
    /// Name below /dev/mapper, kernel name of the device below.
    mapped: Option<(String, String)>,
    mounted: Option<String>,
    /// Mount units and their places.
    units: BTreeMap<String, String>,
    /// Folders and their owners.
    folders: BTreeMap<String, String>,
    /// Programs that fail, and how often still.
    failures: BTreeMap<String, usize>,
    /// Whether detached disks stay in their arrays.
    sticky: bool,
    commands: Vec<String>,
    next_uuid: u32,
}

/// The simulated machine. Clones share one state.
#[derive(Clone, Default)]
pub struct Simulated(Arc<Mutex<State>>);

impl Simulated {
    /// A machine with these blank disks (kernel name, serial) of 1 GiB each.
    pub fn with_disks(disks: &[(&str, &str)]) -> Simulated {
        let machine = Simulated::default();
        for (name, serial) in disks {
            machine.plug(name, serial, Media::Blank);
        }
        machine
    }

    /// Plugs a new disk in.
    pub fn plug(&self, name: &str, serial: &str, media: Media) {
        let disk = SimulatedDisk {
            serial: serial.to_owned(),
            size: 1 << 30,
            present: true,
            media,
        };
        self.state().disks.insert(name.to_owned(), disk);
    }

    /// Pulls a disk out, or puts it back.
    pub fn set_present(&self, name: &str, present: bool) {
        if let Some(disk) = self.state().disks.get_mut(name) {
            disk.present = present;
        }
    }

    /// The disks plugged in, by kernel name.
    pub fn disks(&self) -> Vec<(String, SimulatedDisk)> {
        let state = self.state();
        let present = state.disks.iter().filter(|(_, disk)| disk.present);
        present.map(|(n, d)| (n.clone(), d.clone())).collect()
    }

    /// The name and UUID of the array a disk is a member of.
    pub fn array_of(&self, uuid: &str) -> Option<String> {
        self.state().makeups.get(uuid).map(|m| m.name.clone())
    }

    /// Lets the next `times` runs of a program fail.
    pub fn fail(&self, program: &str, times: usize) {
        self.state().failures.insert(program.to_owned(), times);
    }

    /// From now on taking detached disks out succeeds and does nothing.
    pub fn stick(&self) {
        self.state().sticky = true;
    }

    /// The commands run so far that change something.
    pub fn commands(&self) -> Vec<String> {
        self.state().commands.clone()
    }

    /// A mount unit and where it mounts.
    pub fn add_unit(&self, unit: &str, place: &str) {
        self.state().units.insert(unit.to_owned(), place.to_owned());
    }

    /// The folders made, and their owners.
    pub fn folders(&self) -> BTreeMap<String, String> {
        self.state().folders.clone()
    }

    /// Where the pool is mounted.
    pub fn mounted(&self) -> Option<String> {
        self.state().mounted.clone()
    }

    /// The machine is switched off and on: what is on the disks stays.
    pub fn reboot(&self) {
        let mut state = self.state();
        state.mounted = None;
        state.mapped = None;
        state.running.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic holds it")
    }
}

impl Machine for Simulated {
    fn run(&self, program: &str, arguments: &[&str], input: &[u8]) -> std::io::Result<Output> {
        let mut state = self.state();
        if let Some(left) = state.failures.get_mut(program).filter(|left| **left > 0) {
            *left -= 1;
            return Ok(Output {
                code: 1,
                stderr: format!("{program}: simulated failure\n"),
                ..Output::default()
            });
        }
        match program {
            "mdadm" => state.mdadm(arguments),
            "cryptsetup" => state.cryptsetup(arguments, input),
            "mkfs.xfs" => state.mkfs(arguments),
            "systemctl" => state.systemctl(arguments),
            "install" => state.install(arguments),
            "blkid" => state.blkid(arguments),
            _ => Err(ErrorKind::NotFound.into()),
        }
    }

    fn read(&self, path: &str) -> std::io::Result<String> {
        self.state()
            .file(path)
            .ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn list(&self, path: &str) -> std::io::Result<Vec<String>> {
        self.state()
            .directory(path)
            .ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn space(&self, path: &Path) -> std::io::Result<(u64, u64)> {
        if self.state().mounted.as_deref().map(Path::new) == Some(path) {
            Ok((1 << 30, 1 << 29))
        } else {
            Err(Error::from(ErrorKind::NotFound))
        }
    }
}

impl State {
    /// The volume on a whole disk or in an array, by kernel name.
    fn volume(&mut self, block: &str) -> Option<&mut Volume> {
        match self.running.get(block) {
            Some(running) => self.makeups.get_mut(&running.uuid)?.volume.as_mut(),
            None => match &mut self.disks.get_mut(block)?.media {
                Media::Volume(volume) => Some(volume),
                _ => None,
            },
        }
    }

    /// The array on this node changed: the disks in it, and only they, know.
    fn touch(&mut self, node: &str) {
        let Some(running) = self.running.get(node) else {
            return;
        };
        let Some(makeup) = self.makeups.get_mut(&running.uuid) else {
            return;
        };
        makeup.events += 1;
        makeup.working = running.slots.len() as u32;
        for (name, _) in &running.slots {
            if let Some(disk) = self.disks.get_mut(name).filter(|d| d.present) {
                disk.media = Media::Member(running.uuid.clone(), makeup.events);
            }
        }
    }

    fn file(&self, path: &str) -> Option<String> {
        if path == "/proc/self/mountinfo" {
            let line = |place: &String| {
                format!("29 28 253:0 / {place} rw,relatime - xfs /dev/mapper/strongroom-pool rw\n")
            };
            return Some(self.mounted.as_ref().map(line).unwrap_or_default());
        }
        let (block, rest) = path.strip_prefix("/sys/block/")?.split_once('/')?;
        if let Some(running) = self.running.get(block) {
            let makeup = &self.makeups[&running.uuid];
            // an unplugged disk is good to md until it is used
            let good = running.slots.iter().filter(|(_, failed)| !failed).count() as u32;
            let missing = makeup.disks.saturating_sub(good);
            return Some(match rest {
                "size" => (1u64 << 20).to_string(),
                "md/array_state" if running.active => "clean\n".into(),
                "md/array_state" => "inactive\n".into(),
                "md/level" if running.active => format!("{}\n", makeup.level.name()),
                "md/raid_disks" if running.active => format!("{}\n", makeup.disks),
                "md/degraded" if running.active => format!("{missing}\n"),
                "md/sync_action" => "idle\n".into(),
                "md/sync_completed" => "none\n".into(),
                _ => {
                    let name = rest.strip_prefix("md/dev-")?.strip_suffix("/state")?;
                    let (_, failed) = running.slots.iter().find(|(n, _)| n == name)?;
                    if *failed { "faulty\n" } else { "in_sync\n" }.into()
                }
            });
        }
        match (rest, &self.mapped) {
            ("size", _) => Some((self.disks.get(block)?.size / 512).to_string()),
            ("dm/name", Some((name, _))) if block == "dm-0" => Some(format!("{name}\n")),
            ("dm/uuid", Some((name, _))) if block == "dm-0" => {
                Some(format!("CRYPT-LUKS2-98102be5bced4c08-{name}\n"))
            }
            _ => None,
        }
    }

    fn directory(&self, path: &str) -> Option<Vec<String>> {
        if path == "/sys/block" {
            let disks = self.disks.iter().filter(|(_, d)| d.present);
            let mut names: Vec<_> = disks.map(|(name, _)| name.clone()).collect();
            names.extend(self.running.keys().cloned());
            names.extend(self.mapped.iter().map(|_| "dm-0".to_owned()));
            names.sort();
            return Some(names);
        }
        if path == "/sys/block/dm-0/slaves" {
            let (_, below) = self.mapped.as_ref()?;
            let gone = self.disks.get(below).is_some_and(|d| !d.present);
            return Some(if gone { vec![] } else { vec![below.clone()] });
        }
        let block = path.strip_prefix("/sys/block/")?.strip_suffix("/md")?;
        let slots = &self.running.get(block)?.slots;
        Some(
            slots
                .iter()
                .map(|(name, _)| format!("dev-{name}"))
                .collect(),
        )
    }
}
