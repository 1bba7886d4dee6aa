//! What to do next, and what to tell, from what there is. Pure, and never destructive: no action
//! here writes on a disk that is not a member already.

use crate::name::PoolId;
use crate::view::{Member, View};
use disks::md::{Array, Level};
use std::collections::BTreeSet;

/// One step. Each is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Stop an array that others left half assembled.
    Stop {
        /// Its node.
        array: String,
    },
    /// Start an array.
    Assemble {
        /// Its UUID.
        uuid: String,
        /// The nodes of its disks.
        disks: Vec<String>,
        /// Whether disks are missing.
        degraded: bool,
    },
    /// Take unplugged disks out.
    DropDetached {
        /// The array's node.
        array: String,
    },
    /// Put a disk back that belongs to it.
    Add {
        /// The array's node.
        array: String,
        /// The disk's node.
        disk: String,
    },
    /// Open the volume with its key.
    Open {
        /// The node it is on.
        device: String,
        /// Whose key.
        pool: PoolId,
    },
    /// Mount what is open.
    Mount,
}

/// What the interface tells; the words of the contract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// No disk is of a pool.
    #[default]
    None,
    /// On the way.
    Assembling,
    /// Waits for its key.
    Locked,
    /// In use.
    Mounted,
    /// In use, and not all disks hold what they should.
    Degraded,
    /// A person is needed.
    Failed,
}

impl State {
    /// The contract's word.
    pub fn word(self) -> &'static str {
        match self {
            State::None => "none",
            State::Assembling => "assembling",
            State::Locked => "locked",
            State::Mounted => "mounted",
            State::Degraded => "degraded",
            State::Failed => "failed",
        }
    }
}

/// What is remembered between two looks.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Whether disks have had their time to appear since the last that came.
    pub settled: bool,
    /// Pools keyd has no key of.
    pub keyless: BTreeSet<PoolId>,
    /// The pool that was last mounted whole, and the serial numbers of its disks.
    pub whole: Option<(PoolId, BTreeSet<String>)>,
}

/// What to tell and to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// The state.
    pub state: State,
    /// Why it is not as it should be, and what next; else empty.
    pub reason: String,
    /// The pool.
    pub pool: Option<PoolId>,
    /// "single", or md's name of the layout; empty while unknown.
    pub level: String,
    /// The next step.
    pub action: Option<Action>,
    /// Whether all depends on disks that may still appear.
    pub waiting: bool,
    /// Whether its making was interrupted, so that making it again goes on.
    pub unfinished: bool,
}

/// The next step from here.
pub fn next(view: &View, memory: &Memory) -> Verdict {
    let Some(pool) = choose(view, memory) else {
        return if view.mounted || view.mapping.is_some() {
            lost()
        } else {
            Verdict::default()
        };
    };
    let array = view.arrays.iter().find(|(p, _)| *p == pool).map(|(_, a)| a);
    let members: Vec<_> = view.members.iter().filter(|m| m.pool == pool).collect();
    let verdict = if view.mounted {
        in_use(array, &members, view, memory)
    } else if let Some(mapping) = &view.mapping
        && view
            .volumes
            .iter()
            .all(|v| v.finished || v.device != format!("/dev/{}", mapping.below))
    {
        Verdict {
            state: State::Assembling,
            action: Some(Action::Mount),
            ..Verdict::default()
        }
    } else if let Some(volume) = view.volumes.iter().find(|v| v.pool == pool) {
        if !volume.finished {
            unfinished()
        } else if memory.keyless.contains(&pool) {
            locked(format!(
                "keyd has no key of the pool {pool}: its disks are of another appliance, or of this one before it was set up anew; put them into the one they are of, or take them out"
            ))
        } else {
            Verdict {
                state: State::Assembling,
                action: Some(Action::Open {
                    device: volume.device.clone(),
                    pool: pool.clone(),
                }),
                ..Verdict::default()
            }
        }
    } else {
        match array {
            Some(array) if array.active => match &memory.whole {
                Some((whole, _)) if *whole == pool => failed(
                    "the pool's encryption header cannot be read, so nothing on it can; restore from the centre".into(),
                ),
                _ => unfinished(),
            },
            Some(array) => Verdict {
                state: State::Assembling,
                action: Some(Action::Stop {
                    array: array.device.clone(),
                }),
                ..Verdict::default()
            },
            None => start(&members, view, memory),
        }
    };
    let level = match (array, members.first()) {
        (Some(array), _) if !array.level.is_empty() => array.level.clone(),
        (_, Some(member)) => member.superblock.level.clone(),
        _ => "single".into(),
    };
    Verdict {
        pool: Some(pool),
        level,
        ..verdict
    }
}

/// Which pool, when disks are of several: the one in use, else one we may have the key of, else
/// the one with most disks here.
fn choose(view: &View, memory: &Memory) -> Option<PoolId> {
    if let Some(mapping) = &view.mapping {
        let below = format!("/dev/{}", mapping.below);
        if let Some(volume) = view.volumes.iter().find(|v| v.device == below) {
            return Some(volume.pool.clone());
        }
    }
    let pools: BTreeSet<_> = view
        .members
        .iter()
        .map(|m| &m.pool)
        .chain(view.volumes.iter().map(|v| &v.pool))
        .chain(view.arrays.iter().map(|(pool, _)| pool))
        .collect();
    pools
        .into_iter()
        .max_by_key(|pool| {
            let members = view.members.iter().filter(|m| m.pool == **pool);
            let ours = !memory.keyless.contains(pool);
            (
                ours,
                view.arrays.iter().any(|(p, _)| p == *pool),
                members.count(),
            )
        })
        .cloned()
}

fn unfinished() -> Verdict {
    Verdict {
        state: State::Failed,
        reason: "making the pool was interrupted, and nothing is on it yet; ask for it again (enrolment does) and it goes on".into(),
        unfinished: true,
        ..Verdict::default()
    }
}

fn locked(reason: String) -> Verdict {
    Verdict {
        state: State::Locked,
        reason,
        ..Verdict::default()
    }
}

fn failed(reason: String) -> Verdict {
    Verdict {
        state: State::Failed,
        reason,
        ..Verdict::default()
    }
}

fn lost() -> Verdict {
    failed(
        "the pool lost more disks than it can do without and takes no more data; plug them in again and restart the appliance".into(),
    )
}

/// No array runs: start it from these disks, when they are enough.
fn start(members: &[&Member], view: &View, memory: &Memory) -> Verdict {
    let Some(newest) = members.iter().max_by_key(|m| m.superblock.events) else {
        // what is mapped or mounted was handled; nothing else names a pool
        return failed("the pool's disk is gone; plug it in".into());
    };
    let superblock = &newest.superblock;
    let same = members
        .iter()
        .filter(|m| m.superblock.uuid == superblock.uuid);
    let disks: Vec<_> = same.map(|m| m.path.clone()).collect();
    let (have, all) = (disks.len() as u32, superblock.disks);
    // members that were away while it ran are put back once it runs again
    let fresh = members
        .iter()
        .filter(|m| m.superblock.events == superblock.events)
        .count() as u32;
    let bears = Level::parse(&superblock.level).map_or(0, |level| level.bears(all));
    let assemble = |degraded| Verdict {
        state: State::Assembling,
        action: Some(Action::Assemble {
            uuid: superblock.uuid.clone(),
            disks: disks.clone(),
            degraded,
        }),
        ..Verdict::default()
    };
    if have >= all {
        return assemble(fresh < all);
    }
    let missing = missing(&newest.pool, all - have, view, memory);
    if !memory.settled {
        return Verdict {
            state: State::Assembling,
            reason: format!("waiting for {missing} to appear"),
            waiting: true,
            ..Verdict::default()
        };
    }
    if have + bears >= all {
        assemble(true)
    } else {
        failed(format!(
            "{have} of the pool's {all} disks are here, too few to read it: {missing} missing; plug them in and the pool comes up by itself"
        ))
    }
}

/// The pool is mounted: how it does.
fn in_use(array: Option<&Array>, members: &[&Member], view: &View, memory: &Memory) -> Verdict {
    let gone = view.mapping.as_ref().is_some_and(|m| m.below.is_empty());
    let broken = array.is_some_and(|array| {
        let bears = Level::parse(&array.level).map_or(0, |level| level.bears(array.disks));
        array.broken || array.missing() > bears
    });
    if gone || broken {
        return lost();
    }
    let Some(array) = array.filter(|a| a.missing() > 0 || a.slots.iter().any(|s| !s.present))
    else {
        return Verdict {
            state: State::Mounted,
            ..Verdict::default()
        };
    };
    let detached = array.slots.iter().any(|slot| !slot.present);
    let back = members.iter().find(|member| {
        member.superblock.uuid == array.uuid
            && array
                .slots
                .iter()
                .all(|slot| member.path != format!("/dev/{}", slot.name))
    });
    let action = if detached {
        Some(Action::DropDetached {
            array: array.device.clone(),
        })
    } else {
        back.map(|member| Action::Add {
            array: array.device.clone(),
            disk: member.path.clone(),
        })
    };
    Verdict {
        state: State::Degraded,
        reason: degraded(array, members, view, memory),
        action,
        ..Verdict::default()
    }
}

fn degraded(array: &Array, members: &[&Member], view: &View, memory: &Memory) -> String {
    if let Some(sync) = array.sync.as_ref().filter(|s| s.action == "recover") {
        return format!(
            "a disk of the pool is being rebuilt, {:.0} % are done; until then one more loss is one too many for it",
            sync.done * 100.0
        );
    }
    let faulty = array
        .slots
        .iter()
        .find(|slot| slot.present && slot.state.contains("faulty"));
    if let Some(slot) = faulty {
        let serial = view
            .disk(&format!("/dev/{}", slot.name))
            .map_or("", |d| &d.serial);
        return format!(
            "the disk {serial} ({}) failed and is no longer used; copy offsite what is not yet there (this release takes no other disk in its place)",
            slot.name
        );
    }
    match members.first() {
        Some(member) => format!(
            "the pool runs without {}; plug it in again (this release takes no other disk in its place)",
            missing(&member.pool, array.missing(), view, memory)
        ),
        None => {
            "the pool runs without some of its disks; plug them in again (this release takes no others in their place)".into()
        }
    }
}

/// "the disk SERIAL", or how many when their serial numbers are not known.
fn missing(pool: &PoolId, count: u32, view: &View, memory: &Memory) -> String {
    let here = view.serials(pool);
    let known = memory.whole.as_ref().filter(|(known, _)| known == pool);
    let named: Vec<_> = known
        .iter()
        .flat_map(|(_, serials)| serials.difference(&here))
        .map(String::as_str)
        .collect();
    match (named.len() as u32 == count, count) {
        (true, 1) => format!("the disk {}", named[0]),
        (true, _) => format!("the disks {}", named.join(", ")),
        (false, 1) => "one disk".into(),
        (false, _) => format!("{count} disks"),
    }
}
