//! Against a real software TPM, with tpm2-tools as the oracle.

use data_encoding::HEXLOWER;
use std::fs;
use tpm::testing::Swtpm;
use tpm::{Error, Policy, Sealed, Sealer};

const SECRET: [u8; 32] = *b"thirty-two bytes that must come.";

fn sealer(tpm: &Swtpm) -> Sealer {
    Sealer::new(&tpm.tcti()).unwrap()
}

/// A field of the stored form, as the oracle wants it.
fn field(sealed: &Sealed, name: &str) -> String {
    serde_json::to_value(sealed).unwrap()[name]
        .as_str()
        .unwrap()
        .to_owned()
}

fn altered(sealed: &Sealed, name: &str, change: impl Fn(&mut serde_json::Value)) -> Sealed {
    let mut value = serde_json::to_value(sealed).unwrap();
    change(&mut value[name]);
    serde_json::from_value(value).unwrap()
}

#[test]
fn what_was_sealed_comes_back_also_after_a_restart() {
    let mut tpm = Swtpm::new();
    let sealed = sealer(&tpm).seal(&SECRET, &Policy::literal([7])).unwrap();
    assert_eq!(*sealer(&tpm).unseal(&sealed).unwrap(), SECRET);
    tpm.power_cycle();
    tpm.extend(7, 1);
    assert_eq!(*sealer(&tpm).unseal(&sealed).unwrap(), SECRET);
    let stored = serde_json::to_string(&sealed).unwrap();
    assert!(!stored.contains(&HEXLOWER.encode(&SECRET)));
    assert_eq!(serde_json::from_str::<Sealed>(&stored).unwrap(), sealed);
}

#[test]
fn the_pcr_that_moved_is_named() {
    let tpm = Swtpm::new();
    let sealed = sealer(&tpm)
        .seal(&SECRET, &Policy::literal([7, 4]))
        .unwrap();
    tpm.extend(7, 2);
    let Err(Error::PcrMoved(moved)) = sealer(&tpm).unseal(&sealed) else {
        panic!("it was unsealed under another PCR 7");
    };
    assert_eq!(moved, [7]);
}

#[test]
fn the_tpm_itself_refuses_though_the_recorded_values_were_forged() {
    let tpm = Swtpm::new();
    let sealed = sealer(&tpm).seal(&SECRET, &Policy::literal([7])).unwrap();
    tpm.extend(7, 2);
    let now = sealer(&tpm).seal(&SECRET, &Policy::literal([7])).unwrap();
    let pcrs = serde_json::to_value(&now).unwrap()["pcrs"].clone();
    let forged = altered(&sealed, "pcrs", |value| *value = pcrs.clone());
    assert!(matches!(sealer(&tpm).unseal(&forged), Err(Error::Blob(_))));
    let none = altered(&sealed, "pcrs", |value| *value = serde_json::json!({}));
    assert!(matches!(sealer(&tpm).unseal(&none), Err(Error::Blob(_))));
}

#[test]
fn all_zero_pcrs_are_refused_unless_allowed() {
    let own = tempfile::tempdir().unwrap();
    let tpm = Swtpm::start(own.path());
    let mut policy = Policy::literal([7]);
    let refused = sealer(&tpm).seal(&SECRET, &policy);
    assert!(matches!(refused, Err(Error::Unmeasured(pcrs)) if pcrs == [7]));
    policy.allow_unmeasured = true;
    let sealed = sealer(&tpm).seal(&SECRET, &policy).unwrap();
    assert_eq!(*sealer(&tpm).unseal(&sealed).unwrap(), SECRET);
}

#[test]
fn another_tpm_and_a_cleared_one_are_told_apart_from_damage() {
    let tpm = Swtpm::new();
    let sealed = sealer(&tpm).seal(&SECRET, &Policy::literal([7])).unwrap();
    let other = Swtpm::new();
    assert!(matches!(
        sealer(&other).unseal(&sealed),
        Err(Error::OtherTpm)
    ));
    for name in ["public", "private"] {
        let damaged = altered(&sealed, name, |value| {
            let text = value.as_str().unwrap();
            let last = if text.ends_with('0') { "1" } else { "0" };
            *value = format!("{}{last}", &text[..text.len() - 1]).into();
        });
        assert!(
            matches!(sealer(&tpm).unseal(&damaged), Err(Error::Blob(_))),
            "{name}"
        );
    }
    tpm.tool("clear", &["-c", "p"]);
    assert!(matches!(sealer(&tpm).unseal(&sealed), Err(Error::OtherTpm)));
}

#[test]
fn no_tpm_and_nonsense_are_told_apart() {
    let nobody = Sealer::new("device:/nonexistent/tpmrm0").unwrap();
    assert!(matches!(nobody.describe(), Err(Error::Absent { .. })));
    assert!(matches!(Sealer::new("a TPM"), Err(Error::Tcti(_))));
}

#[test]
fn it_says_who_it_is() {
    let text = sealer(&Swtpm::new()).describe().unwrap();
    assert!(
        text.starts_with("IBM SW") && text.contains(", firmware "),
        "{text}"
    );
}

#[test]
fn tpm2_tools_read_what_we_wrote() {
    let tpm = Swtpm::new();
    let sealed = sealer(&tpm).seal(&SECRET, &Policy::literal([7])).unwrap();
    for name in ["public", "private"] {
        let bytes = HEXLOWER.decode(field(&sealed, name).as_bytes()).unwrap();
        let sized = [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
        fs::write(tpm.state().join(name), sized).unwrap();
    }
    tpm.tool(
        "createprimary",
        &[
            "-C",
            "o",
            "-G",
            "ecc",
            "-c",
            "srk.ctx",
            "-a",
            "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda",
        ],
    );
    // without a resource manager each tool leaves what it loaded in one of three places
    tpm.tool("flushcontext", &["-t"]);
    tpm.tool("readpublic", &["-c", "srk.ctx", "-n", "srk.name"]);
    let name = fs::read(tpm.state().join("srk.name")).unwrap();
    assert_eq!(
        HEXLOWER.encode(&name),
        field(&sealed, "srk"),
        "not the TCG's template"
    );
    tpm.tool(
        "load",
        &[
            "-C",
            "srk.ctx",
            "-u",
            "public",
            "-r",
            "private",
            "-c",
            "sealed.ctx",
        ],
    );
    tpm.tool("flushcontext", &["-t"]);
    let found = tpm.tool("unseal", &["-c", "sealed.ctx", "-p", "pcr:sha256:7"]);
    assert_eq!(found, SECRET);
}
