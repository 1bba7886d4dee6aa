//! Two appliances and the kernel's WireGuard between them: enrolment brings the uplink up, and it
//! comes back after whatever happens to the clock.

mod appliance;

use appliance::{property, until};
use qemu_tests::{Boot, Lab, Machine, Result, Setup, scenario};
use std::sync::Arc;

const CENTRE: &str = "10.77.0.1";

fn up(site: &Machine) -> Result<()> {
    until(site, "Uplink1", "up", site.within(90))
}

/// Packets pass inside the tunnel.
fn passes(site: &Machine) -> Result<()> {
    let centre = property(site, "Uplink1", "Centre")?;
    // replication's port; whoever answers, and be it by a refusal, answers through the tunnel
    let ask = format!("exec 3<>/dev/tcp/{centre}/7444");
    let asked = site.run(["timeout", "60", "bash", "-c", &ask])?;
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(asked.code == 0 || said.contains("refused"), "{said}");
    Ok(())
}

/// A centre, and a site whose clock is a year behind, which enrols all the same.
fn enrolled(lab: &Lab) -> Result<(Arc<Machine>, Arc<Machine>)> {
    let cable = lab.cable("internet");
    let make = |name: &str, first: bool, address: &str| {
        let setup = Setup::new(name, Boot::Direct).disk("DISK1", 1 << 30);
        lab.machine(setup.cable(&cable, first, address))
    };
    let centre = make("centre", true, &format!("{CENTRE}/24"))?;
    let site = make("site", false, "10.77.0.2/24")?;
    std::thread::scope(|s| {
        let other = s.spawn(|| centre.boot());
        site.boot()?;
        other.join().expect("does not panic")
    })?;
    centre.online(1)?;
    site.online(1)?;

    let endpoint = format!("{CENTRE}:7443");
    centre.check(["strongroom", "centre", "init", "Centre", &endpoint])?;
    centre.check(["strongroom", "centre", "tenant", "Example"])?;
    let token = [
        "strongroom",
        "--json",
        "centre",
        "token",
        "Example",
        "Office",
    ];
    let token = centre.check(token)?;
    let token = token
        .split('"')
        .skip_while(|word| *word != "token")
        .nth(2)
        .unwrap_or_default();
    site.check(["date", "-s", "-1 year"])?;
    site.put("/run/token", 0o600, token.as_bytes())?;
    site.sh("strongroom enrol </run/token")?;
    up(&site)?;
    passes(&site)?;
    Ok((centre, site))
}

#[test]
fn emul_uplink_comes_back_whatever_the_clock_does() {
    scenario("emul_uplink", |lab| {
        let (centre, site) = enrolled(lab)?;
        // the journal of a real machine, read over the bus
        let log = site.check(["strongroom", "--json", "log", "--daemon", "uplinkd"])?;
        assert!(log.contains(r#""daemon": "uplinkd""#), "{log}");
        let year = site.check(["date", "+%Y-%m-%d"])?;
        assert_eq!(year, centre.check(["date", "+%Y-%m-%d"])?);

        let link = site.check(["ip", "-d", "-6", "addr", "show", "sr0"])?;
        assert!(
            link.contains("wireguard") && link.contains("mtu 1420"),
            "{link}"
        );

        // the clock falls back by a year, or runs ahead by one, while it runs
        for jump in ["-1 year", "+1 year"] {
            site.check(["date", "-s", jump])?;
            until(&site, "Uplink1", "connecting", site.within(30))?;
            up(&site)?;
            passes(&site)?;
        }

        // and with a restart between: the tunnel is not raised before the clock is set
        for jump in ["-1 year", "+1 year"] {
            site.check(["systemctl", "stop", "strongroom-uplinkd"])?;
            site.sh(&format!("ip link del sr0; date -s '{jump}'"))?;
            site.check(["systemctl", "start", "strongroom-uplinkd"])?;
            up(&site)?;
            passes(&site)?;
            assert_eq!(
                site.check(["date", "+%Y-%m-%d"])?,
                centre.check(["date", "+%Y-%m-%d"])?
            );
        }
        Ok(())
    });
}

/// Long, since WireGuard holds a peer for there as long as its last handshake is no three minutes
/// old.
#[test]
fn long_uplink_comes_back_when_its_way_does() {
    scenario("long_uplink", |lab| {
        let (_centre, site) = enrolled(lab)?;
        site.set_link(1, false)?;
        until(&site, "Uplink1", "connecting", site.within(240))?;
        let reason = property(&site, "Uplink1", "Reason")?;
        assert!(!reason.is_empty());
        site.set_link(1, true)?;
        up(&site)?;

        // a restarted site finds its way alone
        site.reboot()?;
        up(&site)?;
        passes(&site)
    });
}
