//! The packages, installed and removed as on a client's Debian.

use qemu_tests::{scenario, workspace};
use std::process::Command;

/// On top of the tools tree, a Debian with dpkg and systemd, in namespaces of its own: nothing of
/// it stays.
const ON_DEBIAN: &str = r#"
mount -t tmpfs scratch "$1"
mkdir "$1/changes" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/changes,workdir=$1/work" overlay "$1/root"
mount -t proc proc "$1/root/proc"
cp "$3"/*.deb "$1/root/tmp/"
exec chroot "$1/root" sh -euc "$4"
"#;

const INSTALL_AND_REMOVE: &str = r#"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends /tmp/strongroom-*.deb
dpkg-query -W -f '${Package} ${db:Status-Status}\n' 'strongroom-*'
strongroom --version
strongroom-agent --version
systemctl is-enabled strongroom-agent strongroom-keyd strongroom-jobd strongroom-centred
getent passwd strongroom-keyd strongroom-jobd strongroom-centred | cut -d: -f1,7
apt-get remove -y -qq strongroom-base strongroom-agent
echo "left: $(find /usr/bin /usr/lib /etc/systemd/system -name '*strongroom*')"
"#;

#[test]
fn emul_packages_install_on_debian_and_leave_nothing_running_there() {
    scenario("packages", |lab| {
        let scratch = lab.dir().join("scratch");
        std::fs::create_dir_all(&scratch).expect("a directory to mount on");
        let output = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "sh", "-euc", ON_DEBIAN, "sh"])
            .arg(&scratch)
            .args([
                workspace().join(".cache/tools"),
                workspace().join("out/debs"),
            ])
            .arg(INSTALL_AND_REMOVE)
            .output()
            .expect("unshare runs");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{told}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let version = env!("CARGO_PKG_VERSION");
        let ours = format!(
            "strongroom-agent installed\nstrongroom-base installed\nstrongroom-centre installed\n\
             strongroom-site installed\nstrongroom {version}\nstrongroom-agent {version}\n\
             enabled\nenabled\nenabled\nenabled\n\
             strongroom-keyd:/usr/sbin/nologin\nstrongroom-jobd:/usr/sbin/nologin\n\
             strongroom-centred:/usr/sbin/nologin\n"
        );
        assert!(told.contains(&ours), "{told}");
        assert!(told.ends_with("left: \n"), "{told}");
        Ok(())
    });
}
