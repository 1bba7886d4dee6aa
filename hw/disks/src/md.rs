//! md arrays (mdadm), superblock version 1.2.

mod level;
pub(crate) mod watch;

pub use level::Level;

use crate::machine::{Error, Machine, attempt, pairs, run};

/// The home host all our arrays are named after: `strongroom:NAME`.
pub const HOST: &str = "strongroom";

/// What a disk's superblock says of the array it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The array's UUID as mdadm writes it, four groups with colons.
    pub uuid: String,
    /// The array's name, with its host.
    pub name: String,
    /// Its layout, as md names it.
    pub level: String,
    /// How many disks it is made of.
    pub disks: u32,
    /// How often the array had changed when this disk was last in it.
    pub events: u64,
}

/// How a disk stands in a running array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The kernel's name of the disk (`sda`).
    pub name: String,
    /// md's words: `in_sync`, `spare`, `faulty`, ..., comma-separated.
    pub state: String,
    /// Whether the disk is still plugged in.
    pub present: bool,
}

/// Work md does in the background.
#[derive(Clone, Debug, PartialEq)]
pub struct Sync {
    /// md's word: `resync`, `recover`, `check`, `reshape`.
    pub action: String,
    /// Share done, 0 to 1.
    pub done: f64,
}

/// An array the kernel knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Its node, `/dev/md0`.
    pub device: String,
    /// Its UUID as mdadm writes it.
    pub uuid: String,
    /// Its name, with its host.
    pub name: String,
    /// Its layout; empty while inactive.
    pub level: String,
    /// Disks it is made of; 0 while inactive.
    pub disks: u32,
    /// How many of them md knows to be missing or not yet rebuilt.
    pub degraded: u32,
    /// Whether it runs.
    pub active: bool,
    /// Whether md gave it up: more disks failed than the layout bears.
    pub broken: bool,
    /// The disks in it.
    pub slots: Vec<Slot>,
    /// What md does in the background.
    pub sync: Option<Sync>,
}

impl Array {
    /// How many disks it does without. md notices an unplugged one only when it next uses it, so
    /// those it still takes for good count too.
    pub fn missing(&self) -> u32 {
        let unnoticed = |slot: &&Slot| !slot.present && slot.state.contains("in_sync");
        self.degraded + self.slots.iter().filter(unnoticed).count() as u32
    }
}

/// What the superblock on `device` says; None when there is none.
pub fn examine(machine: &dyn Machine, device: &str) -> Result<Option<Superblock>, Error> {
    let doing = format!("reading the array superblock of {device}");
    let arguments = ["--examine", "--export", device];
    let output = attempt(machine, &doing, "mdadm", &arguments, b"")?;
    if output.code != 0 {
        return Ok(None);
    }
    let value = |name: &str| {
        pairs(&output.stdout)
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.to_owned())
    };
    let number = |name: &str| value(name).and_then(|v| v.parse().ok()).unwrap_or(0);
    Ok(value("MD_UUID").map(|uuid| Superblock {
        uuid,
        name: value("MD_NAME").unwrap_or_default(),
        level: value("MD_LEVEL").unwrap_or_default(),
        disks: u32::try_from(number("MD_DEVICES")).unwrap_or(0),
        events: number("MD_EVENTS"),
    }))
}

/// The arrays the kernel knows, active or not, that carry a superblock.
pub fn arrays(machine: &dyn Machine) -> Result<Vec<Array>, Error> {
    let blocks = machine.list("/sys/block").map_err(|source| Error::Start {
        doing: "looking for arrays".into(),
        needs: "/sys/block".into(),
        source,
    })?;
    let mut found = Vec::new();
    for block in blocks.iter().filter(|b| b.starts_with("md")) {
        found.extend(array(machine, block, &blocks)?);
    }
    Ok(found)
}

fn array(machine: &dyn Machine, block: &str, blocks: &[String]) -> Result<Option<Array>, Error> {
    let device = format!("/dev/{block}");
    let doing = format!("asking about {device}");
    let arguments = ["--detail", "--export", &device];
    let output = attempt(machine, &doing, "mdadm", &arguments, b"")?;
    let value = |name: &str| {
        pairs(&output.stdout)
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.to_owned())
    };
    let Some(uuid) = value("MD_UUID") else {
        return Ok(None); // stopped meanwhile, or of a kind without a superblock
    };
    let directory = format!("/sys/block/{block}/md");
    let read = |file: &str| {
        let text = machine.read(&format!("{directory}/{file}"));
        text.map(|t| t.trim().to_owned()).unwrap_or_default()
    };
    let state = read("array_state");
    let slots = machine
        .list(&directory)
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| entry.strip_prefix("dev-"))
        .map(|name| Slot {
            name: name.to_owned(),
            state: read(&format!("dev-{name}/state")),
            present: blocks.iter().any(|b| b == name),
        })
        .collect();
    Ok(Some(Array {
        uuid,
        name: value("MD_NAME").unwrap_or_default(),
        level: read("level"),
        disks: read("raid_disks").parse().unwrap_or(0),
        degraded: read("degraded").parse().unwrap_or(0),
        active: !matches!(state.as_str(), "" | "clear" | "inactive"),
        broken: state == "broken",
        slots,
        sync: sync(&read("sync_action"), &read("sync_completed")),
        device,
    }))
}

fn sync(action: &str, completed: &str) -> Option<Sync> {
    if matches!(action, "" | "idle" | "frozen") {
        return None;
    }
    let done = completed
        .split_once(" / ")
        .and_then(|(done, total)| {
            let (done, total): (f64, f64) = (done.parse().ok()?, total.parse().ok()?);
            (total > 0.0).then(|| (done / total).clamp(0.0, 1.0))
        })
        .unwrap_or(0.0);
    Some(Sync {
        action: action.to_owned(),
        done,
    })
}

/// A node no array has: `/dev/md0` or a later one.
pub fn free_node(machine: &dyn Machine) -> Result<String, Error> {
    let blocks = machine.list("/sys/block").map_err(|source| Error::Start {
        doing: "looking for a free array number".into(),
        needs: "/sys/block".into(),
        source,
    })?;
    // a machine has far fewer arrays than numbers
    let free = (0..512).find(|n| !blocks.contains(&format!("md{n}")));
    Ok(format!("/dev/md{}", free.unwrap_or(512)))
}

/// Makes an array over disks, whatever they hold, and starts it; md brings the disks in step in
/// the background while it is used.
pub fn create(
    machine: &dyn Machine,
    node: &str,
    name: &str,
    level: Level,
    disks: &[&str],
) -> Result<(), Error> {
    let (level_argument, count) = (
        format!("--level={}", level.number()),
        format!("--raid-devices={}", disks.len()),
    );
    let (home, name_argument) = (format!("--homehost={HOST}"), format!("--name={name}"));
    // against the write hole: a partial parity log where md has one, elsewhere a map of what was
    // being written, which also makes a returning disk's rebuild short
    let log = match level {
        Level::Raid5 => "--consistency-policy=ppl",
        _ => "--bitmap=internal",
    };
    let mut arguments = vec![
        "--create",
        node,
        "--run",
        "--metadata=1.2",
        &home,
        &name_argument,
        &level_argument,
        &count,
        log,
    ];
    arguments.extend_from_slice(disks);
    let doing = format!("making the array {node}");
    run(machine, &doing, "mdadm", &arguments, b"").map(|_| ())
}

/// Starts the array of this UUID from these disks; `degraded` allows some to be missing.
pub fn assemble(
    machine: &dyn Machine,
    node: &str,
    uuid: &str,
    disks: &[&str],
    degraded: bool,
) -> Result<(), Error> {
    let id = format!("--uuid={uuid}");
    let mut arguments = vec!["--assemble", node];
    if degraded {
        arguments.push("--run");
    }
    arguments.push(&id);
    arguments.extend_from_slice(disks);
    let doing = format!("starting the array {node}");
    run(machine, &doing, "mdadm", &arguments, b"").map(|_| ())
}

/// Stops an array that nothing uses.
pub fn stop(machine: &dyn Machine, node: &str) -> Result<(), Error> {
    let doing = format!("stopping the array {node}");
    run(machine, &doing, "mdadm", &["--stop", node], b"").map(|_| ())
}

/// Takes disks that were unplugged out of an array, so that they can come back.
pub fn drop_detached(machine: &dyn Machine, node: &str) -> Result<(), Error> {
    let arguments = [
        "--manage", node, "--fail", "detached", "--remove", "detached",
    ];
    let doing = format!("taking unplugged disks out of {node}");
    run(machine, &doing, "mdadm", &arguments, b"").map(|_| ())
}

/// Puts a disk into a degraded array; md rebuilds it, of a member that was away for a while only
/// what changed.
pub fn add(machine: &dyn Machine, node: &str, disk: &str) -> Result<(), Error> {
    let arguments = ["--manage", node, "--add", disk];
    let doing = format!("putting {disk} back into {node}");
    run(machine, &doing, "mdadm", &arguments, b"").map(|_| ())
}
