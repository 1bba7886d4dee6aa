//! The same once more on a bus with the policies that the image ships, each daemon as a user of its
//! own: what one of them may not call, or may not hear, shows here and not only in the image.

use crate::rig::Machine;
use runtime::testing::{Appliance, program};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Users that every Debian has stand for those of the daemons; what is played here is root's.
const USERS: [(&str, &str); 8] = [
    ("keyd", "daemon"),
    ("enrold", "lp"),
    ("portald", "mail"),
    ("centred", "news"),
    ("engined", "sys"),
    ("jobd", "games"),
    ("poold", "root"),
    ("uplinkd", "root"),
];

/// As Debian's system.conf, where no other policy speaks; and root may also play and look.
const DEFAULT: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:tmpdir=/tmp</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus"
           send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
  </policy>
  POLICIES
  <policy user="root">
    <allow own="*"/>
    <allow send_destination="*"/>
  </policy>
</busconfig>
"#;

pub(crate) fn appliance() -> Appliance {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../image/common/dbus-1");
    let mut policies = String::new();
    for file in std::fs::read_dir(shipped).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|e| e != "conf") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let (_, inside) = text.split_once("<busconfig>").unwrap();
        policies += inside.split_once("</busconfig>").unwrap().0;
    }
    for (daemon, user) in USERS {
        policies = policies.replace(&format!("\"strongroom-{daemon}\""), &format!("\"{user}\""));
    }
    let appliance = Appliance::with_bus(&DEFAULT.replace("POLICIES", &policies));
    open_to_all(appliance.root.path());
    let callers = USERS.map(|(daemon, user)| format!("{daemon} = \"{user}\"\n"));
    appliance.configure("callers", &callers.concat());
    let state = appliance.path("var/lib/strongroom");
    for (daemon, _) in USERS {
        let own = state.join(daemon);
        std::fs::create_dir(&own).unwrap();
        give(daemon, &own);
    }
    appliance
}

/// Makes a directory a daemon's own.
pub(crate) fn give(daemon: &str, directory: &Path) {
    let user = nix::unistd::User::from_name(user(daemon)).unwrap().unwrap();
    nix::unistd::chown(directory, Some(user.uid), Some(user.gid)).unwrap();
}

fn user(daemon: &str) -> &'static str {
    USERS.iter().find(|(d, _)| *d == daemon).unwrap().1
}

fn open_to_all(directory: &Path) {
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
}

/// A program that becomes the daemon's user and then the daemon.
pub(crate) fn as_its_user(appliance: &Appliance, daemon: &str) -> PathBuf {
    let user = user(daemon);
    // below /tmp, as that user may not look into where the workspace is
    let copy = appliance.path(format!("{daemon}.program"));
    if !copy.exists() {
        // by a program: a copy open here for writing, inherited by what another test starts just
        // now, could not be run ("Text file busy")
        let cp = std::process::Command::new("cp")
            .arg(program(daemon))
            .arg(&copy)
            .status();
        assert!(cp.unwrap().success());
    }
    let start = appliance.path(format!("strongroom-{daemon}"));
    let script = format!(
        "#!/bin/sh\nexec setpriv --reuid={user} --regid={user} --clear-groups {}\n",
        copy.display()
    );
    std::fs::write(&start, script).unwrap();
    std::fs::set_permissions(&start, PermissionsExt::from_mode(0o755)).unwrap();
    start
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_policies_let_everything_through_that_is_needed() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can start daemons as several users");
        return;
    }
    let centre = Machine::policed().await.found().await;
    let token = centre.token("Acme", "Main street").await;
    let site = Machine::policed().await;
    site.join(&token).await.unwrap();
    site.listening(&[&site.endpoint]).await;
    let (centre, site) = crate::whole::live(centre, site).await;
    // nobody heard of a refusal he did not tell
    for machine in [&centre, &site] {
        for daemon in ["keyd", "enrold", "portald", "centred", "engined", "jobd"] {
            let log = machine.log(daemon);
            assert!(!log.contains("AccessDenied"), "{daemon}: {log}");
        }
    }
}
