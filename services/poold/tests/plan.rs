//! The state machine against worlds made by chance: disks that come and go, reboots, half-made
//! pools, commands that fail.

mod simulation;

use disks::simulated::{Media, Simulated};
use disks::{Machine, luks, md, mount};
use poold::create;
use poold::name::PoolId;
use poold::plan::{self, Action, Memory, State, Verdict};
use poold::view::{self, MAPPING};
use proptest::prelude::*;
use simulation::Disks;

const PLACE: &str = "/srv/strongroom/pool";
const UNIT: &str = "srv-strongroom-pool.mount";

fn machine(disks: usize) -> Simulated {
    let machine = Simulated::default();
    machine.add_unit(UNIT, PLACE);
    machine.plug("sys", "SYSTEM", Media::Foreign("gpt".into(), String::new()));
    for n in 0..disks {
        machine.plug(&name(n), &format!("DISK{n}"), Media::Blank);
    }
    machine
}

fn name(n: usize) -> String {
    format!("vd{}", char::from(b'a' + n as u8))
}

fn key() -> create::Key {
    create::Key::new([9; 64])
}

/// Makes a pool as the worker does, but stops after `commands` of the programs' runs.
fn make(machine: &Simulated, disks: usize, commands: Option<usize>) -> Option<PoolId> {
    let cut = Cut {
        inner: machine.clone(),
        left: std::sync::Mutex::new(commands.unwrap_or(usize::MAX)),
    };
    let pool = PoolId::random().unwrap();
    let nodes: Vec<_> = (0..disks).map(|n| format!("/dev/{}", name(n))).collect();
    let device = create::make_array(&cut, &pool, &nodes).ok()?;
    create::make_volume(&cut, &pool, &device, &key(), |_| {}).ok()?;
    Some(pool)
}

/// A machine whose power is cut after some commands.
struct Cut {
    inner: Simulated,
    left: std::sync::Mutex<usize>,
}

impl Machine for Cut {
    fn run(
        &self,
        program: &str,
        arguments: &[&str],
        input: &[u8],
    ) -> std::io::Result<disks::Output> {
        let mut left = self.left.lock().unwrap();
        *left = left.checked_sub(1).ok_or(std::io::ErrorKind::Interrupted)?;
        self.inner.run(program, arguments, input)
    }
    fn read(&self, path: &str) -> std::io::Result<String> {
        self.inner.read(path)
    }
    fn list(&self, path: &str) -> std::io::Result<Vec<String>> {
        self.inner.list(path)
    }
    fn space(&self, path: &std::path::Path) -> std::io::Result<(u64, u64)> {
        self.inner.space(path)
    }
}

fn look(machine: &Simulated, memory: &Memory) -> Verdict {
    let view = view::look(machine, &Disks(machine.clone()), PLACE).unwrap();
    plan::next(&view, memory)
}

fn perform(machine: &Simulated, action: &Action) {
    match action {
        Action::Stop { array } => md::stop(machine, array).unwrap(),
        Action::Assemble {
            uuid,
            disks,
            degraded,
        } => {
            let node = md::free_node(machine).unwrap();
            let disks: Vec<_> = disks.iter().map(String::as_str).collect();
            md::assemble(machine, &node, uuid, &disks, *degraded).unwrap();
        }
        Action::DropDetached { array } => md::drop_detached(machine, array).unwrap(),
        Action::Add { array, disk } => md::add(machine, array, disk).unwrap(),
        Action::Open { device, .. } => luks::open(machine, device, MAPPING, &key()).unwrap(),
        Action::Mount => mount::start(machine, UNIT).unwrap(),
    }
}

/// Takes steps until there are none.
fn settle(machine: &Simulated, memory: &Memory) -> Verdict {
    for _ in 0..20 {
        let verdict = look(machine, memory);
        match &verdict.action {
            Some(action) => perform(machine, action),
            None => return verdict,
        }
    }
    panic!("no end: {:?}", machine.commands());
}

fn settled() -> Memory {
    Memory {
        settled: true,
        ..Memory::default()
    }
}

#[test]
fn a_machine_without_a_pool_is_left_alone() {
    let machine = machine(3);
    let verdict = settle(&machine, &settled());
    assert_eq!((verdict.state, verdict.pool), (State::None, None));
    assert!(machine.commands().is_empty());
}

#[test]
fn a_missing_disk_is_waited_for_then_done_without_and_taken_back() {
    let machine = machine(2);
    let pool = make(&machine, 2, None).unwrap();
    machine.reboot();
    machine.set_present("vdb", false);
    let whole = ["DISK0", "DISK1"].map(str::to_owned).into();
    let memory = Memory {
        whole: Some((pool, whole)),
        ..Memory::default()
    };
    let verdict = settle(&machine, &memory);
    assert_eq!(verdict.state, State::Assembling);
    assert_eq!(verdict.reason, "waiting for the disk DISK1 to appear");
    assert!(verdict.waiting);
    let memory = Memory {
        settled: true,
        ..memory
    };
    let verdict = settle(&machine, &memory);
    assert_eq!(verdict.state, State::Degraded);
    assert_eq!(
        verdict.reason,
        "the pool runs without the disk DISK1; plug it in again (this release takes no other disk in its place)"
    );
    machine.set_present("vdb", true);
    assert_eq!(settle(&machine, &memory).state, State::Mounted);
}

#[test]
fn a_pulled_disk_is_dropped_and_its_return_noticed() {
    let machine = machine(2);
    make(&machine, 2, None).unwrap();
    assert_eq!(settle(&machine, &settled()).state, State::Mounted);
    machine.set_present("vda", false);
    assert_eq!(settle(&machine, &settled()).state, State::Degraded);
    assert!(
        machine
            .commands()
            .iter()
            .any(|c| c.contains("--fail detached"))
    );
    machine.set_present("vda", true);
    assert_eq!(settle(&machine, &settled()).state, State::Mounted);
}

#[test]
fn more_loss_than_the_layout_bears_is_told_and_heals_by_a_restart() {
    for count in [1, 2] {
        let machine = machine(count);
        make(&machine, count, None).unwrap();
        assert_eq!(settle(&machine, &settled()).state, State::Mounted);
        for n in 0..count {
            machine.set_present(&name(n), false);
        }
        let verdict = look(&machine, &settled());
        assert_eq!(verdict.state, State::Failed);
        assert!(
            verdict.reason.contains("more disks than it can do without"),
            "{}",
            verdict.reason
        );
        for n in 0..count {
            machine.set_present(&name(n), true);
        }
        machine.reboot();
        assert_eq!(settle(&machine, &settled()).state, State::Mounted);
    }
}

#[test]
fn a_pool_of_another_appliance_is_told_and_not_touched_further() {
    let machine = machine(1);
    let pool = make(&machine, 1, None).unwrap();
    machine.reboot();
    let memory = Memory {
        keyless: [pool].into(),
        ..settled()
    };
    let verdict = settle(&machine, &memory);
    assert_eq!(verdict.state, State::Locked);
    assert!(
        verdict.reason.contains("of another appliance"),
        "{}",
        verdict.reason
    );
}

#[test]
fn a_lost_header_is_not_taken_for_an_interrupted_making() {
    let machine = machine(2);
    let pool = PoolId::random().unwrap();
    create::make_array(&machine, &pool, &["/dev/vda".into(), "/dev/vdb".into()]).unwrap();
    assert!(look(&machine, &settled()).unfinished);
    let memory = Memory {
        whole: Some((pool, Default::default())),
        ..settled()
    };
    let verdict = look(&machine, &memory);
    assert!(!verdict.unfinished);
    assert!(
        verdict.reason.contains("restore from the centre"),
        "{}",
        verdict.reason
    );
}

#[test]
fn what_is_carried_or_locked_is_not_taken_unasked() {
    let machine = machine(1);
    machine.plug("sda", "STICK", Media::Blank);
    machine.plug("sdb", "LOCKED", Media::Blank);
    let disks = devices::Source::disks(&Disks(machine)).unwrap();
    assert_eq!(create::choose(&disks, &[]).unwrap(), ["/dev/vda"]);
    assert_eq!(
        create::choose(&disks, &["STICK".into()]).unwrap(),
        ["/dev/sda"]
    );
    let locked = create::choose(&disks, &["LOCKED".into()]).unwrap_err();
    assert_eq!(
        locked.text(),
        "the disk LOCKED is write-protected; name another"
    );
}

#[test]
fn layouts_follow_the_number_of_disks() {
    let levels = [
        (1, "single"),
        (2, "raid1"),
        (3, "raid5"),
        (4, "raid5"),
        (5, "raid6"),
        (8, "raid6"),
    ];
    for (count, level) in levels {
        let machine = machine(count);
        make(&machine, count, None).unwrap();
        machine.reboot();
        let verdict = settle(&machine, &settled());
        assert_eq!(
            (verdict.state, verdict.level.as_str()),
            (State::Mounted, level)
        );
    }
}

proptest! {
    /// Wherever its making stops, the pool is either none, unfinished or whole; never is an
    /// unfinished one mounted or one that was whole called unfinished.
    #[test]
    fn a_cut_while_making_leaves_a_state_that_is_told(disks in 1usize..5, commands in 0usize..8, reboot: bool) {
        let machine = machine(disks);
        let whole = make(&machine, disks, Some(commands)).is_some();
        if reboot {
            machine.reboot();
        }
        let verdict = settle(&machine, &settled());
        let fits = match verdict.state {
            State::None => !whole,
            State::Failed => !whole && verdict.unfinished,
            State::Mounted => whole,
            _ => false,
        };
        prop_assert!(fits, "{whole} {verdict:?} {:?}", machine.commands());
    }

    /// Disks come and go in any order, with reboots between: whenever enough are there and had
    /// their time, the pool is mounted; it is never started degraded before; nothing is ever
    /// formatted.
    #[test]
    fn it_comes_up_whenever_it_can(
        disks in 1usize..7,
        events in proptest::collection::vec((0usize..7, any::<bool>(), any::<bool>()), 1..20),
    ) {
        let machine = machine(disks);
        make(&machine, disks, None).unwrap();
        let made = machine.commands().len();
        machine.reboot();
        for (disk, present, reboot) in events {
            if reboot {
                machine.reboot();
            }
            // no more are away at a time than the layout bears
            let away = disks + 1 - machine.disks().len();
            let bears = create::layout(disks).map_or(0, |level| level.bears(disks as u32));
            if disk < disks && (present || away < bears as usize) {
                machine.set_present(&name(disk), present);
            }
            let hasty = Memory::default();
            let verdict = look(&machine, &hasty);
            if let Some(Action::Assemble { degraded, .. }) = verdict.action {
                let all = machine.disks().len() == disks + 1;
                prop_assert!(!degraded || all, "not before its time");
            }
            let verdict = settle(&machine, &settled());
            prop_assert_ne!(verdict.state, State::Locked);
            prop_assert!(!verdict.unfinished);
            let whole = machine.disks().len() == disks + 1;
            let wanted = if whole { State::Mounted } else { State::Degraded };
            prop_assert_eq!(verdict.state, wanted, "{:?}", machine.commands());
            prop_assert!(machine.mounted().is_some());
        }
        // at last all are here, and the machine starts anew
        for n in 0..disks {
            machine.set_present(&name(n), true);
        }
        machine.reboot();
        let verdict = settle(&machine, &settled());
        prop_assert!(matches!(verdict.state, State::Mounted), "{verdict:?} {:?}", machine.commands());
        for command in &machine.commands()[made..] {
            for never in ["luksFormat", "mkfs", "--create"] {
                prop_assert!(!command.contains(never), "{command}");
            }
        }
    }

    #[test]
    fn only_blank_disks_are_chosen(kinds in proptest::collection::vec(0u8..4, 0..6), named: bool) {
        let machine = machine(0);
        for (n, kind) in kinds.iter().enumerate() {
            let media = match kind {
                0 => Media::Blank,
                1 => Media::Foreign("xfs".into(), "photos".into()),
                2 => Media::Foreign("gpt".into(), String::new()),
                _ => Media::Foreign("crypto_LUKS".into(), "strongroom:0123456789abcdef".into()),
            };
            machine.plug(&name(n), &format!("DISK{n}"), media);
        }
        let all = devices::Source::disks(&Disks(machine)).unwrap();
        let serials: Vec<_> = if named {
            (0..kinds.len()).map(|n| format!("DISK{n}")).collect()
        } else {
            Vec::new()
        };
        let blank: Vec<_> = (0..kinds.len()).filter(|n| kinds[*n] == 0).map(|n| format!("/dev/{}", name(n))).collect();
        match create::choose(&all, &serials) {
            Ok(chosen) => prop_assert_eq!(chosen, blank),
            Err(contract::Error::DiskInUse(_)) => prop_assert!(named && blank.len() < kinds.len()),
            Err(contract::Error::NotFound(_)) => prop_assert!(blank.is_empty()),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
