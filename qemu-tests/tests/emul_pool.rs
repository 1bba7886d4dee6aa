//! The disk pool on real md, dm-crypt and XFS, by the real poold in its sandbox.

mod appliance;

use appliance::{property, until};
use qemu_tests::{Boot, Lab, Machine, Result, Setup, scenario};

const GIB: u64 = 1 << 30;
const PLACE: &str = "/srv/strongroom/pool";

fn create(machine: &Machine, serials: &[&str]) -> Result<()> {
    let count = serials.len().to_string();
    let name = "org.strongroom.Pool1";
    let call = [
        "busctl",
        "call",
        name,
        "/org/strongroom/Pool1",
        name,
        "Create",
        "asa{sv}",
        &count,
    ];
    machine.check(call.iter().chain(serials).chain(&["0"]))?;
    until(machine, "Pool1", "mounted", machine.within(60))
}

fn stands(machine: &Machine, state: &str) -> Result<()> {
    until(machine, "Pool1", state, machine.within(60))
}

fn plug(machine: &Machine, serial: &str) -> Result<()> {
    machine.plug_usb_disk(serial, GIB)?;
    let link = format!("/dev/disk/by-id/usb-QEMU_QEMU_HARDDISK_{serial}-0:0");
    machine.check(["udevadm", "wait", "--timeout", "120", &link])?;
    Ok(())
}

/// What the programs that made it say of it, and what other daemons see of it.
fn as_promised(machine: &Machine) -> Result<()> {
    let id = property(machine, "Pool1", "Pool")?;
    assert_eq!(property(machine, "Pool1", "Level")?, "raid1");
    let detail = machine.check(["mdadm", "--detail", "--export", "/dev/md0"])?;
    assert!(
        detail.contains(&format!("MD_NAME=strongroom:{id}\n")),
        "{detail}"
    );
    let header = machine.check(["cryptsetup", "luksDump", "/dev/md0"])?;
    for line in [
        format!("Label:         \tstrongroom:{id}"),
        "cipher: aes-xts-plain64".into(),
        "sector: 4096 [bytes]".into(),
        "PBKDF:      pbkdf2".into(),
    ] {
        assert!(header.contains(&line), "{line} is not in\n{header}");
    }
    // the key that encrypts is in the kernel's keyring, out of reach of who lists the table
    let table = machine.check(["dmsetup", "table", "--showkeys", "strongroom-pool"])?;
    assert!(table.contains(":64:logon:cryptsetup:"), "{table}");
    let options = machine.check(["findmnt", "-no", "FSTYPE,OPTIONS", PLACE])?;
    for option in ["xfs ", "nosuid", "nodev", "noexec"] {
        assert!(options.contains(option), "{options}");
    }
    let owner = machine.check(["stat", "-c", "%U %a", &format!("{PLACE}/datastores")])?;
    assert_eq!(owner, "strongroom-engined 700\n");
    // engined was started before the pool was mounted: the mount came into its sandbox, writable
    // for its user and for nobody else
    machine.sh(
        "pid=$(systemctl show -P MainPID strongroom-engined)
         grep -q ' /srv/strongroom/pool rw,' /proc/$pid/mountinfo
         as() { user=$1; shift; nsenter -t $pid -m -- setpriv --reuid=$user --regid=$user --clear-groups \"$@\"; }
         as strongroom-engined touch /srv/strongroom/pool/datastores/seen
         ! as strongroom-jobd touch /srv/strongroom/pool/datastores/unseen
         rm /srv/strongroom/pool/datastores/seen",
    )?;
    Ok(())
}

#[test]
fn emul_pool_lives_through_pulled_disks_and_reboots() {
    scenario("emul_pool", |lab| {
        let machine = lab.machine(Setup::new("one", Boot::Direct).disk("DISK1", GIB))?;
        machine.boot()?;
        plug(&machine, "DISK2")?;
        assert_eq!(property(&machine, "Pool1", "State")?, "none");
        create(&machine, &["DISK1", "DISK2"])?;
        as_promised(&machine)?;

        // pulled while written to: nothing is lost, and the missing disk is named
        let file = format!("{PLACE}/file");
        machine.sh(&format!("head -c 30000000 /dev/urandom >{file}; sync"))?;
        let sum = machine.check(["sha256sum", &file])?;
        let written = format!("dd if=/dev/zero of={PLACE}/more bs=1M count=300 conv=fsync");
        let writing = machine.start(["sh", "-c", &written])?;
        machine.pull_usb_disk("DISK2")?;
        stands(&machine, "degraded")?;
        assert_eq!(
            property(&machine, "Pool1", "Reason")?,
            "the pool runs without the disk DISK2; plug it in again (this release takes no other disk in its place)"
        );
        assert_eq!(writing.finish(machine.within(60))?.code, 0);
        machine.sh("echo 3 >/proc/sys/vm/drop_caches")?;
        assert_eq!(machine.check(["sha256sum", &file])?, sum);

        // back: it is taken in and rebuilt
        plug(&machine, "DISK2")?;
        stands(&machine, "mounted")?;

        // poold dies: nobody notices
        machine.check(["systemctl", "kill", "-s", "KILL", "strongroom-poold"])?;
        stands(&machine, "mounted")?;
        assert_eq!(machine.check(["sha256sum", &file])?, sum);

        // a power cut, and a disk that is not there afterwards
        machine.cut_power();
        machine.boot()?;
        stands(&machine, "degraded")?;
        assert_eq!(machine.check(["sha256sum", &file])?, sum);
        plug(&machine, "DISK2")?;
        stands(&machine, "mounted")
    });
}

/// Several disks: found again after a power cut.
fn of_parity(lab: &Lab, serials: &[&str], level: &str, consistency: &str) -> Result<()> {
    let setup = serials
        .iter()
        .fold(Setup::new("one", Boot::Direct), |setup, serial| {
            setup.disk(serial, GIB)
        });
    let machine = lab.machine(setup)?;
    machine.boot()?;
    // unasked it takes every built-in disk that is blank, and not the hand's, which is locked
    create(&machine, &[])?;
    assert_eq!(property(&machine, "Pool1", "Level")?, level);
    let policy = machine.check(["cat", "/sys/block/md0/md/consistency_policy"])?;
    assert_eq!(policy.trim(), consistency);
    let file = format!("{PLACE}/file");
    machine.sh(&format!("head -c 30000000 /dev/urandom >{file}; sync"))?;
    let sum = machine.check(["sha256sum", &file])?;
    machine.cut_power();
    machine.boot()?;
    until(&machine, "Pool1", "mounted", machine.within(90))?;
    assert_eq!(machine.check(["sha256sum", &file])?, sum);
    // and nothing of another's is overwritten
    plug(&machine, "PHOTOS")?;
    machine.sh("mkfs.xfs -q /dev/disk/by-id/usb-QEMU_QEMU_HARDDISK_PHOTOS-0:0; udevadm settle")?;
    let disks = machine.check([
        "busctl",
        "call",
        "org.strongroom.Pool1",
        "/org/strongroom/Pool1",
        "org.strongroom.Pool1",
        "Disks",
    ])?;
    assert!(disks.contains("\"foreign: xfs\""), "{disks}");
    Ok(())
}

#[test]
fn emul_pool_of_three_disks_is_raid5_without_a_write_hole() {
    scenario("emul_pool_raid5", |lab| {
        of_parity(lab, &["A", "B", "C"], "raid5", "ppl")
    });
}

#[test]
fn long_pool_of_five_disks_is_raid6() {
    scenario("long_pool_raid6", |lab| {
        of_parity(lab, &["A", "B", "C", "D", "E"], "raid6", "bitmap")
    });
}
