//! Exact argument lists, and the answers of the real programs as recorded in QEMU (Debian trixie:
//! mdadm 4.4, cryptsetup 2.7.5, xfsprogs 6.13, util-linux 2.41, Linux 6.12).

use disks::md::{self, Level};
use disks::{Machine, Output, luks, probe, xfs};
use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Mutex;

/// Plays one recorded exchange after another and refuses what was not recorded.
#[derive(Default)]
struct Recorded {
    exchanges: Mutex<VecDeque<(String, Output)>>,
    files: BTreeMap<String, String>,
    inputs: Mutex<Vec<Vec<u8>>>,
}

impl Recorded {
    fn new() -> Recorded {
        Recorded::default()
    }
    fn on(self, command: &str, code: i32, stdout: &str, stderr: &str) -> Recorded {
        let output = Output {
            code,
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        self.exchanges
            .lock()
            .unwrap()
            .push_back((command.into(), output));
        self
    }
    fn file(mut self, path: &str, text: &str) -> Recorded {
        self.files.insert(path.into(), text.into());
        self
    }
}

impl Machine for Recorded {
    fn run(&self, program: &str, arguments: &[&str], input: &[u8]) -> std::io::Result<Output> {
        let command = format!("{program} {}", arguments.join(" "));
        let (expected, output) = self.exchanges.lock().unwrap().pop_front().expect(&command);
        assert_eq!(command, expected);
        self.inputs.lock().unwrap().push(input.to_vec());
        Ok(output)
    }
    fn read(&self, path: &str) -> std::io::Result<String> {
        self.files
            .get(path)
            .cloned()
            .ok_or_else(|| ErrorKind::NotFound.into())
    }
    fn list(&self, path: &str) -> std::io::Result<Vec<String>> {
        let prefix = format!("{path}/");
        let mut names: Vec<String> = self
            .files
            .keys()
            .filter_map(|p| {
                p.strip_prefix(&prefix)?
                    .split('/')
                    .next()
                    .map(str::to_owned)
            })
            .collect();
        names.dedup();
        if names.is_empty() {
            Err(ErrorKind::NotFound.into())
        } else {
            Ok(names)
        }
    }
    fn space(&self, _: &Path) -> std::io::Result<(u64, u64)> {
        Err(ErrorKind::Unsupported.into())
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(
                self.exchanges.lock().unwrap().is_empty(),
                "not all was asked"
            );
        }
    }
}

const KEY: [u8; 64] = [0x5a; 64];

#[test]
fn a_mirror_is_made() {
    let machine = Recorded::new().on(
        "mdadm --create /dev/md0 --run --metadata=1.2 --homehost=strongroom --name=0123456789abcdef --level=1 --raid-devices=2 --bitmap=internal /dev/vda /dev/vdb",
        0,
        "",
        "mdadm: array /dev/md0 started.\n",
    );
    md::create(
        &machine,
        "/dev/md0",
        "0123456789abcdef",
        Level::Raid1,
        &["/dev/vda", "/dev/vdb"],
    )
    .unwrap();
}

#[test]
fn raid5_closes_its_write_hole() {
    let machine = Recorded::new().on(
        "mdadm --create /dev/md1 --run --metadata=1.2 --homehost=strongroom --name=aa --level=5 --raid-devices=3 --consistency-policy=ppl /dev/vdc /dev/vdd /dev/vde",
        0,
        "",
        "mdadm: array /dev/md1 started.\n",
    );
    md::create(
        &machine,
        "/dev/md1",
        "aa",
        Level::Raid5,
        &["/dev/vdc", "/dev/vdd", "/dev/vde"],
    )
    .unwrap();
}

#[test]
fn a_busy_disk_is_told_in_mdadms_words() {
    let machine = Recorded::new().on(
        "mdadm --create /dev/md2 --run --metadata=1.2 --homehost=strongroom --name=bb --level=1 --raid-devices=2 --bitmap=internal /dev/vdc /dev/vdf",
        1,
        "",
        "mdadm: super1.x cannot open /dev/vdc: Device or resource busy\nmdadm: /dev/vdc is not suitable for this array.\nmdadm: create aborted\n",
    );
    let error = md::create(
        &machine,
        "/dev/md2",
        "bb",
        Level::Raid1,
        &["/dev/vdc", "/dev/vdf"],
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "making the array /dev/md2 failed: mdadm: create aborted"
    );
}

#[test]
fn a_superblock_is_read() {
    let machine = Recorded::new()
        .on(
            "mdadm --examine --export /dev/vda",
            0,
            "MD_LEVEL=raid1\nMD_DEVICES=2\nMD_NAME=strongroom:0123456789abcdef\nMD_ARRAY_SIZE=535.82MB\nMD_UUID=75f86993:07039c3f:66f059e4:1553401f\nMD_UPDATE_TIME=1795406340\nMD_DEV_UUID=f0d48601:5e02a72f:d611c894:e361ad16\nMD_EVENTS=2\n",
            "",
        )
        .on("mdadm --examine --export /dev/vdz", 1, "", "mdadm: No md superblock detected on /dev/vdz.\n");
    let found = md::examine(&machine, "/dev/vda").unwrap().unwrap();
    assert_eq!(found.uuid, "75f86993:07039c3f:66f059e4:1553401f");
    assert_eq!(found.name, "strongroom:0123456789abcdef");
    assert_eq!(
        (found.level.as_str(), found.disks, found.events),
        ("raid1", 2, 2)
    );
    assert_eq!(md::examine(&machine, "/dev/vdz").unwrap(), None);
}

const DETAIL: &str = "MD_LEVEL=raid1\nMD_DEVICES=2\nMD_METADATA=1.2\nMD_UUID=f91ff6f6:33ce0197:d6b7c48b:cf256601\nMD_NAME=strongroom:0123456789abcdef\nMD_DEVICE_dev_vda_ROLE=0\nMD_DEVICE_dev_vda_DEV=/dev/vda\n";

#[test]
fn an_array_that_lost_a_disk_is_read() {
    let machine = Recorded::new()
        .on("mdadm --detail --export /dev/md0", 0, DETAIL, "")
        .file("/sys/block/vda/size", "1048576\n")
        .file("/sys/block/md0/md/array_state", "clean\n")
        .file("/sys/block/md0/md/level", "raid1\n")
        .file("/sys/block/md0/md/raid_disks", "2\n")
        .file("/sys/block/md0/md/degraded", "1\n")
        .file("/sys/block/md0/md/sync_action", "idle\n")
        .file("/sys/block/md0/md/sync_completed", "none\n")
        .file("/sys/block/md0/md/dev-vda/state", "in_sync\n")
        .file("/sys/block/md0/md/dev-vdb/state", "faulty\n");
    let array = md::arrays(&machine).unwrap().remove(0);
    assert_eq!(
        (array.device.as_str(), array.level.as_str()),
        ("/dev/md0", "raid1")
    );
    assert_eq!((array.disks, array.degraded), (2, 1));
    assert!(array.active && !array.broken);
    assert_eq!(array.sync, None);
    assert!(array.slots[0].present && array.slots[0].state == "in_sync");
    assert!(!array.slots[1].present && array.slots[1].state == "faulty");
}

#[test]
fn a_resync_is_measured() {
    let machine = Recorded::new()
        .on("mdadm --detail --export /dev/md0", 0, DETAIL, "")
        .file("/sys/block/md0/md/array_state", "clean\n")
        .file("/sys/block/md0/md/sync_action", "resync\n")
        .file("/sys/block/md0/md/sync_completed", "131072 / 1046528\n");
    let sync = md::arrays(&machine).unwrap().remove(0).sync.unwrap();
    assert_eq!(sync.action, "resync");
    assert!((sync.done - 0.1252).abs() < 0.001, "{}", sync.done);
}

#[test]
fn an_array_others_left_half_assembled_is_inactive() {
    let machine = Recorded::new()
        .on(
            "mdadm --detail --export /dev/md127",
            0,
            "MD_DEVICES=1\nMD_METADATA=1.2\nMD_UUID=f91ff6f6:33ce0197:d6b7c48b:cf256601\nMD_DEVNAME=strongroom:0123456789abcdef\nMD_NAME=strongroom:0123456789abcdef\nMD_DEVICE_dev_vda_ROLE=spare\nMD_DEVICE_dev_vda_DEV=/dev/vda\n",
            "",
        )
        .file("/sys/block/md127/md/array_state", "inactive\n")
        .file("/sys/block/md127/md/dev-vda/state", "spare\n");
    let array = md::arrays(&machine).unwrap().remove(0);
    assert!(!array.active);
    assert_eq!(md::free_node(&machine).unwrap(), "/dev/md0");
}

#[test]
fn an_array_is_assembled_whole_or_degraded() {
    let uuid = "f91ff6f6:33ce0197:d6b7c48b:cf256601";
    let machine = Recorded::new()
        .on(
            "mdadm --assemble /dev/md0 --uuid=f91ff6f6:33ce0197:d6b7c48b:cf256601 /dev/vda",
            1,
            "",
            "mdadm: /dev/md0 assembled from 1 drive - need all 2 to start it (use --run to insist).\n",
        )
        .on(
            "mdadm --assemble /dev/md0 --run --uuid=f91ff6f6:33ce0197:d6b7c48b:cf256601 /dev/vda",
            0,
            "",
            "mdadm: /dev/md0 has been started with 1 drive (out of 2).\n",
        )
        .on("mdadm --manage /dev/md0 --fail detached --remove detached", 0, "", "mdadm: hot removed 254:16 from /dev/md0\n")
        .on("mdadm --manage /dev/md0 --add /dev/vdb", 0, "", "mdadm: re-added /dev/vdb\n")
        .on("mdadm --stop /dev/md0", 0, "", "mdadm: stopped /dev/md0\n");
    assert!(md::assemble(&machine, "/dev/md0", uuid, &["/dev/vda"], false).is_err());
    md::assemble(&machine, "/dev/md0", uuid, &["/dev/vda"], true).unwrap();
    md::drop_detached(&machine, "/dev/md0").unwrap();
    md::add(&machine, "/dev/md0", "/dev/vdb").unwrap();
    md::stop(&machine, "/dev/md0").unwrap();
}

#[test]
fn a_volume_is_made_opened_and_labelled_with_its_key_by_pipe_only() {
    let machine = Recorded::new()
        .file("/sys/block/md0/size", "1046528\n")
        .file("/sys/block/dm-0/dm/name", "strongroom-pool\n")
        .file("/sys/block/dm-0/dm/uuid", "CRYPT-LUKS2-98102be5bced4c08a4860a57d1a73ead-strongroom-pool\n")
        .file("/sys/block/dm-0/slaves/md0/size", "")
        .on(
            "cryptsetup luksFormat --batch-mode --type luks2 --cipher aes-xts-plain64 --key-size 512 --hash sha256 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --sector-size 4096 --label strongroom-new:0123456789abcdef --subsystem strongroom --key-file=- --keyfile-size=64 /dev/md0",
            0,
            "",
            "",
        )
        .on("cryptsetup open --type luks2 --key-file=- --keyfile-size=64 /dev/md0 strongroom-pool", 0, "", "")
        .on("mkfs.xfs -q -f -L strongroom /dev/mapper/strongroom-pool", 0, "", "")
        .on("cryptsetup config --label strongroom:0123456789abcdef --subsystem strongroom /dev/md0", 0, "", "")
        .on("cryptsetup close strongroom-pool", 0, "", "");
    luks::format(
        &machine,
        "/dev/md0",
        "strongroom-new:0123456789abcdef",
        &KEY,
    )
    .unwrap();
    luks::open(&machine, "/dev/md0", "strongroom-pool", &KEY).unwrap();
    let mapping = luks::mapping(&machine, "strongroom-pool").unwrap().unwrap();
    assert_eq!(mapping.below, "md0");
    assert_eq!(mapping.uuid, "98102be5bced4c08a4860a57d1a73ead");
    assert_eq!(luks::mapping(&machine, "other").unwrap(), None);
    xfs::make(&machine, "/dev/mapper/strongroom-pool", "strongroom").unwrap();
    luks::set_label(&machine, "/dev/md0", "strongroom:0123456789abcdef").unwrap();
    luks::close(&machine, "strongroom-pool").unwrap();
    let inputs = machine.inputs.lock().unwrap();
    assert_eq!(inputs[0], KEY);
    assert_eq!(inputs[1], KEY);
    assert!(inputs[2..].iter().all(Vec::is_empty));
}

#[test]
fn a_disk_of_odd_size_gets_small_sectors() {
    let machine = Recorded::new().file("/sys/block/sda/size", "1046529\n").on(
        "cryptsetup luksFormat --batch-mode --type luks2 --cipher aes-xts-plain64 --key-size 512 --hash sha256 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --sector-size 512 --label x --subsystem strongroom --key-file=- --keyfile-size=64 /dev/sda",
        0,
        "",
        "",
    );
    luks::format(&machine, "/dev/sda", "x", &KEY).unwrap();
}

#[test]
fn a_wrong_key_is_told_apart() {
    let machine = Recorded::new().on(
        "cryptsetup open --type luks2 --key-file=- --keyfile-size=64 /dev/md0 strongroom-pool",
        2,
        "",
        "No key available with this passphrase.\n",
    );
    let error = luks::open(&machine, "/dev/md0", "strongroom-pool", &KEY).unwrap_err();
    assert!(matches!(error, luks::OpenError::WrongKey(_)), "{error}");
}

#[test]
fn what_is_on_a_device_is_probed() {
    let machine = Recorded::new()
        .on(
            "blkid -p -o export /dev/md0",
            0,
            "DEVNAME=/dev/md0\nVERSION=2\nUUID=98102be5-bced-4c08-a486-0a57d1a73ead\nLABEL=strongroom:0123456789abcdef\nSUBSYSTEM=strongroom\nTYPE=crypto_LUKS\nUSAGE=crypto\n",
            "",
        )
        .on("blkid -p -o export /dev/md1", 2, "", "")
        .on("blkid -p -o export /dev/md2", 8, "", "");
    let found = probe::probe(&machine, "/dev/md0").unwrap().unwrap();
    assert_eq!(found.kind, "crypto_LUKS");
    assert_eq!(found.label, "strongroom:0123456789abcdef");
    assert_eq!(probe::probe(&machine, "/dev/md1").unwrap(), None);
    assert!(probe::probe(&machine, "/dev/md2").is_err());
}

proptest::proptest! {
    #[test]
    fn whatever_the_programs_say_is_borne(text in "(MD_UUID=|MD_DEVICES=|MD_EVENTS=|TYPE=|[a-z0-9:=\n /-]){0,60}", code in 0i32..9) {
        let say = |command: &str| Recorded::new().on(command, code, &text, "");
        let _ = md::examine(&say("mdadm --examine --export /dev/sda"), "/dev/sda");
        let _ = probe::probe(&say("blkid -p -o export /dev/sda"), "/dev/sda");
        let machine = say("mdadm --detail --export /dev/md0")
            .file("/sys/block/md0/md/sync_completed", &text)
            .file("/sys/block/md0/md/sync_action", &text);
        let _ = md::arrays(&machine);
    }
}
