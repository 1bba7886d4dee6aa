//! The image as it ships: what is under `/`, what is under `/var`, and that nothing failed.

use std::process::Command;

use qemu_tests::{Boot, Lab, Machine, Result, Setup, scenario};

/// What every boot has to have brought about.
fn stands(machine: &Machine) -> Result<()> {
    let failed = machine.check(["systemctl", "--failed", "--plain", "--no-legend"])?;
    assert_eq!(failed, "", "units failed");
    let version = machine.check(["systemctl", "--version"])?;
    assert!(version.starts_with("systemd 257 "), "{version}");
    let bus = machine.check(["systemctl", "show", "-P", "Id", "dbus.service"])?;
    assert_eq!(bus, "dbus-broker.service\n");
    let kinds = "findmnt -no FSTYPE,SOURCE /; findmnt -no FSTYPE,SOURCE /var";
    assert_eq!(
        machine.sh(kinds)?.split_whitespace().collect::<Vec<_>>(),
        ["erofs", "/dev/mapper/root", "ext4", "/dev/mapper/state"]
    );
    // V is verified so far, C corrupted.
    let verity = machine.sh("dmsetup status root")?;
    assert!(verity.contains(" verity V"), "{verity}");
    let token = machine.sh("cryptsetup luksDump /dev/disk/by-partlabel/state")?;
    assert!(token.contains("systemd-tpm2"), "{token}");
    let labels = machine.check([
        "lsblk",
        "-rno",
        "PARTLABEL",
        "/dev/disk/by-id/virtio-system",
    ])?;
    let mut labels: Vec<_> = labels.split_whitespace().collect();
    labels.sort_unstable();
    let slot = concat!("strongroom_", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        labels,
        [
            "_empty", "_empty", "_empty", "esp", "seed", "state", slot, slot, slot
        ]
    );
    assert_ne!(
        machine.run(["touch", "/etc/x"])?.code,
        0,
        "/etc is writable"
    );
    assert_eq!(machine.run(["touch", "/var/lib/x"])?.code, 0);
    Ok(())
}

/// Every program in it is the one in our packages, which a Debian server would get.
fn is_made_of_our_packages(lab: &Lab, machine: &Machine) -> Result<()> {
    let debs = qemu_tests::workspace().join("out/debs");
    let unpacked = lab.dir().join("packages");
    for package in ["base", "site", "centre"] {
        let named = format!("strongroom-{package}_");
        let deb = std::fs::read_dir(&debs)
            .expect("./dev deb has made the packages")
            .map(|entry| entry.expect("can be listed").path())
            .find(|path| {
                path.file_name()
                    .is_some_and(|n| n.to_string_lossy().starts_with(&named))
            })
            .expect("each package is there");
        let unpack = Command::new("dpkg-deb")
            .arg("-x")
            .arg(deb)
            .arg(&unpacked)
            .status();
        assert!(unpack.expect("dpkg-deb runs").success());
    }
    let list = "find usr/bin usr/lib/strongroom -type f -exec sha256sum {} +";
    let sums = Command::new("sh")
        .args(["-c", list])
        .current_dir(&unpacked)
        .output();
    let sums = sums.expect("sha256sum runs").stdout;
    assert!(
        String::from_utf8_lossy(&sums).lines().count() > 7,
        "a program for each daemon"
    );
    machine.put("/run/sums", 0o600, &sums)?;
    machine.sh("cd / && sha256sum --check --quiet /run/sums")?;
    Ok(())
}

fn boots_twice(lab: &Lab, boot: Boot) -> Result<()> {
    let machine = lab.machine(Setup::new("one", boot))?;
    machine.boot()?;
    stands(&machine)?;
    let first = machine.get("/etc/machine-id")?;
    machine.put("/var/lib/mark", 0o600, b"made at the first boot")?;
    machine.power_off()?;
    machine.boot()?;
    stands(&machine)?;
    assert_eq!(machine.get("/var/lib/mark")?, b"made at the first boot");
    assert_eq!(machine.get("/etc/machine-id")?, first);
    let boots = machine.sh("journalctl --list-boots --no-pager -o json")?;
    assert_eq!(boots.matches("boot_id").count(), 2, "{boots}");
    println!("{}", machine.sh("systemd-analyze time")?);
    Ok(())
}

/// The second boot of the shipped image is the main job's in CI.
#[test]
fn uefi_is_verified_measured_and_made_of_our_packages() {
    scenario("uefi_image", |lab| {
        let machine = lab.machine(Setup::new("one", Boot::Firmware))?;
        machine.boot()?;
        stands(&machine)?;
        is_made_of_our_packages(lab, &machine)?;
        let status = machine.sh("bootctl status --no-pager")?;
        assert!(status.contains("Measured UKI: yes"), "{status}");
        // Bound to Secure Boot's state and, so that updates can unlock it, to what our key signed.
        let token = "cryptsetup token export --token-id 0 /dev/disk/by-partlabel/state";
        let token = machine.sh(token)?;
        for policy in ["\"tpm2-pcrs\":[7]", "\"tpm2_pubkey_pcrs\":[11]"] {
            assert!(token.contains(policy), "{token}");
        }
        Ok(())
    });
}

#[test]
fn long_without_firmware_it_boots_and_unlocks_its_state_again() {
    scenario("long_boots_direct", |lab| boots_twice(lab, Boot::Direct));
}

#[test]
fn long_with_firmware_it_boots_and_unlocks_its_state_again() {
    scenario("long_boots_firmware", |lab| {
        boots_twice(lab, Boot::Firmware)
    });
}

#[test]
fn emul_without_a_tpm_it_says_so_and_touches_nothing() {
    scenario("no_tpm", |lab| {
        let mut setup = Setup::new("one", Boot::Direct).disk("DISK1", 1 << 30);
        setup.tpm = false;
        let machine = lab.machine(setup)?;
        machine.power_on()?;
        let told = "this machine has no TPM 2.0, so it cannot keep keys and has halted; \
                    nothing was written. Enable the TPM in the firmware setup (often called PTT or \
                    fTPM) and switch it on again, or take another machine.";
        let console = machine.console();
        console.wait_for(told, 0, machine.within(60))?;
        console.wait_for("System halted", 0, machine.within(20))?;
        machine.cut_power();
        for disk in ["system", "DISK1"] {
            let file = machine.dir().join(format!("{disk}.qcow2"));
            let map = Command::new(qemu_tests::workspace().join("image/tool"))
                .args(["qemu-img", "map", "--output=json"])
                .arg(file)
                .output()
                .expect("image/tool runs");
            // what lies in the topmost layer was written by the machine
            let map = String::from_utf8_lossy(&map.stdout).into_owned();
            let written =
                |line: &&str| line.contains("\"depth\": 0") && line.contains("\"present\": true");
            assert!(
                !map.is_empty() && map.lines().find(written).is_none(),
                "{disk}: {map}"
            );
        }
        Ok(())
    });
}
