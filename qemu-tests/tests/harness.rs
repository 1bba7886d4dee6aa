//! The harness itself, in one machine: what other tests rely on.

use qemu_tests::{Boot, Deadline, Error, Setup, scenario, wire::Tell};
use std::time::Duration;

#[test]
fn emul_hand_runs_commands_and_carries_files() {
    scenario("hand", |lab| {
        let machine = lab.machine(Setup::new("one", Boot::Direct).disk("data0", 64 << 20))?;
        machine.boot()?;

        let both = machine.run(["sh", "-c", "echo out; echo err >&2; exit 7"])?;
        assert_eq!((both.code, both.text().as_str()), (7, "out\n"));
        assert_eq!(both.stderr, b"err\n");
        assert_eq!(machine.run(["sh", "-c", "kill -9 $$"])?.code, 137);
        assert!(matches!(
            machine.run(["no-such-program"]),
            Err(Error::Hand { why, .. }) if why.contains("no-such-program")
        ));

        // Larger than every buffer on the way, with each byte value in it.
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect();
        machine.put("/run/carried", 0o640, &bytes)?;
        assert!(machine.get("/run/carried")? == bytes);
        assert_eq!(machine.sh("stat -c %a /run/carried")?, "640\n");

        // One command runs on while others come and go.
        let mut long = machine.start(["cat"])?;
        let input = long.input();
        for word in ["first", "second"] {
            input.write(word.as_bytes(), machine.within(5))?;
            assert_eq!(machine.check(["echo", "between"])?, "between\n");
            assert!(
                matches!(long.next(machine.within(5))?, Tell::Out(_, b) if b == word.as_bytes())
            );
        }
        input.close();
        assert_eq!(long.finish(machine.within(5))?.code, 0);

        // A command that does not end is late, and then killed.
        let endless = machine.start(["sleep", "1234"])?;
        let soon = Deadline::after(Duration::from_millis(200));
        assert!(matches!(endless.finish(soon), Err(Error::Late { .. })));
        machine.sh("while pgrep -x sleep >/dev/null; do :; done")?;

        // A command that has ended leaves nothing open in the hand.
        let open =
            "pid=$(systemctl show -P MainPID strongroom-test-hand); ls /proc/$pid/fd | wc -l";
        let count = || Ok::<u32, Error>(machine.sh(open)?.trim().parse().expect("a count"));
        let before = count()?;
        for _ in 0..20 {
            machine.check(["true"])?;
        }
        // the last one's pipe may be about to go
        let after = count()?;
        assert!(after < before + 10, "{before} descriptors, then {after}");

        let serials = machine.sh("ls /dev/disk/by-id")?;
        assert!(serials.contains("virtio-data0"), "{serials}");

        machine.plug_usb_disk("stick", 32 << 20)?;
        machine
            .sh("udevadm wait --timeout 120 /dev/disk/by-id/usb-QEMU_QEMU_HARDDISK_stick-0:0")?;
        machine.pull_usb_disk("stick")?;
        machine.sh(
            "udevadm wait --removed --timeout 120 /dev/disk/by-id/usb-QEMU_QEMU_HARDDISK_stick-0:0",
        )?;

        let from = machine.console().len();
        machine.sh("echo a word on the console >/dev/ttyS0")?;
        machine
            .console()
            .wait_for("a word on the console", from, machine.within(5))?;

        machine.sh("echo kept >/var/lib/kept; sync; echo lost >/run/lost")?;
        machine.cut_power();
        assert!(machine.run(["true"]).is_err());
        machine.boot()?;
        assert_eq!(machine.get("/var/lib/kept")?, b"kept\n");
        assert!(machine.get("/run/lost").is_err());

        // What a failure is told with: which machine, which service, and its last words.
        let broken = "systemd-run --wait --unit=broken sh -c 'echo its last words; exit 1'";
        assert_eq!(machine.run(["sh", "-c", broken])?.code, 1);
        machine.check(["journalctl", "--sync"])?;
        let report = machine.report();
        assert!(
            report.contains("--- one: broken.service has failed:")
                && report.contains("its last words"),
            "{report}"
        );
        Ok(())
    });
}

#[test]
fn long_two_machines_share_a_cable() {
    scenario("cable", |lab| {
        let cable = lab.cable("between");
        let near = Setup::new("near", Boot::Direct).cable(&cable, true, "10.77.0.1/24");
        let far = Setup::new("far", Boot::Direct).cable(&cable, false, "10.77.0.2/24");
        let (near, far) = (lab.machine(near)?, lab.machine(far)?);
        std::thread::scope(|s| {
            let other = s.spawn(|| far.boot());
            near.boot()?;
            other.join().expect("does not panic")
        })?;
        near.online(1)?;
        far.online(1)?;
        let echo = [
            "systemd-socket-activate",
            "-a",
            "--inetd",
            "-l",
            "7000",
            "cat",
        ];
        let ask = "exec 3<>/dev/tcp/10.77.0.1/7000; echo well >&3; head -n1 <&3";
        let ask = ["bash", "-euc", ask];
        let served = || {
            let mut served = near.start(echo)?;
            // It says where it listens.
            served.next(near.within(10))?;
            Ok::<_, Error>(served)
        };
        let first = served()?;
        assert_eq!(far.check(ask)?, "well\n");
        // The machine with the first end goes and comes back; the cable stays.
        drop(first);
        near.power_off()?;
        near.boot()?;
        near.online(1)?;
        let _second = served()?;
        assert_eq!(far.check(ask)?, "well\n");
        Ok(())
    });
}

#[test]
fn emul_nothing_outlives_its_keeper() {
    scenario("keeper", |lab| {
        let machine = lab.machine(Setup::new("one", Boot::Direct))?;
        machine.power_on()?;
        let dir = format!("{}\0", machine.dir().display());
        let (keeper, _) = processes()
            .find(|(_, words)| words.ends_with(&format!("keep\0{dir}")))
            .expect("the keeper runs");
        let kept: Vec<_> = processes()
            .filter(|(pid, _)| parent(*pid) == Some(keeper))
            .collect();
        assert_eq!(kept.len(), 2, "QEMU and swtpm: {kept:?}");

        let qmp = machine.qmp()?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(keeper),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("the keeper is ours");
        qmp.ended(machine.within(5))?;
        let by = machine.within(5);
        while kept.iter().any(|(pid, words)| {
            processes().any(|(other, theirs)| other == *pid && theirs == *words)
        }) {
            assert!(by.left().is_some(), "still running: {kept:?}");
            std::thread::yield_now();
        }
        Ok(())
    });
}

/// All processes with their command lines, words ended by zero bytes.
fn processes() -> impl Iterator<Item = (i32, String)> {
    let all = std::fs::read_dir("/proc").expect("/proc is mounted");
    all.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let words = std::fs::read(entry.path().join("cmdline")).ok()?;
        (!words.is_empty()).then(|| (pid, String::from_utf8_lossy(&words).into_owned()))
    })
}

fn parent(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}
