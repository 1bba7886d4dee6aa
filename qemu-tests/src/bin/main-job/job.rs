//! The steps of the main job, in order.

use crate::appliances::{
    Appliances, CENTRE, PORTAL, answer_shown, ask, ask_shown, nothing_left_up, refusal, text, until,
};
use crate::screen::Screen;
use crate::server::Server;
use crate::verdict::{Figures, Verdict, compare, stage, table};
use anyhow::{Context, Result, bail};
use qemu_tests::{Machine, accelerator, runs};
use serde_json::Value as Json;
use std::path::Path;
use std::time::SystemTime;

/// Runs all of it; true when every comparison held.
pub(crate) fn run(protect: Option<&Path>, once: bool) -> Result<bool> {
    nothing_left_up("centre")?;
    nothing_left_up("site")?;
    std::fs::create_dir_all(runs())?;
    let mut screen = Screen::new();
    let (mut server, _) = screen.step("making the tree to protect", |s| {
        Server::prepare(&runs().join("server"), protect, s)
    })?;
    let appliances = Appliances::create()?;
    let done = carry_out(&mut screen, &appliances, &mut server);
    screen.finish(done.is_ok());
    let (report, holds) = match done {
        Ok(done) => done,
        Err(error) => {
            eprintln!("{}{}", appliances.report(), server.report());
            return Err(error);
        }
    };
    println!("{report}");
    println!(
        "{}",
        if holds {
            "Every comparison held."
        } else {
            "A comparison did NOT hold."
        }
    );
    if !holds {
        eprintln!("{}{}", appliances.report(), server.report());
    }
    if once {
        for machine in [&appliances.site, &appliances.centre] {
            machine.power_off()?;
        }
    } else {
        leave_up(appliances)?;
    }
    Ok(holds)
}

fn carry_out(
    screen: &mut Screen,
    appliances: &Appliances,
    server: &mut Server,
) -> Result<(String, bool)> {
    let Appliances { centre, site } = appliances;
    let with = accelerator()?;
    screen.step(&format!("booting the centre ({with})"), |_| boot(centre))?;
    screen.step(&format!("booting the site ({with})"), |_| boot(site))?;

    let endpoint = format!("{CENTRE}:{PORTAL}");
    screen.step("making the centre", |s| {
        ask_shown(s, centre, &["centre", "init", "Centre", &endpoint])
    })?;
    let (token, _) = screen.step("making a tenant and an enrolment token", |_| {
        ask(centre, &["centre", "tenant", "Example", "--custody", "msp"])?;
        let token = ask(centre, &["centre", "token", "Example", "Main office"])?;
        Ok(text(&token, "token")?.to_owned())
    })?;
    let (enrolled, _) = screen.step("enrolling the site", |s| {
        answer_shown(s, site, &["enrol"], &token)
    })?;
    let datastore = text(&enrolled, "datastore")?.to_owned();
    screen.step("bringing the uplink up", |_| {
        until(site, "the uplink and the datastore", |s| {
            s["uplink"]["state"] == "up" && s["engine"]["state"] == "ready"
        })
    })?;

    let portal = site.forwarded(PORTAL)?;
    screen.step("pairing the server's agent with the site", |_| {
        let code = ask(site, &["pair"])?;
        server.pair("agent", portal, text(&code, "code")?)?;
        server.serve()?;
        let mut define = vec!["jobs", "define", "everything", "--agent", "server"];
        for path in &server.paths {
            define.extend([
                "--path",
                path.to_str()
                    .context("a path to protect that is not UTF-8")?,
            ]);
        }
        ask(site, &define)?;
        connected(site, server)
    })?;

    let back_up = |s: &Screen| {
        let began = SystemTime::now();
        ask_shown(s, site, &["jobs", "run", "everything"]).map(|run| (run, began))
    };
    let ((first, first_began), _) = screen.step("first backup, and its offsite copy", back_up)?;
    let (changes, _) = screen.step("changing some files", |_| server.change())?;
    changes.iter().for_each(|change| screen.detail(change));
    let ((second, second_began), _) =
        screen.step("second backup, and its offsite copy", back_up)?;
    for (run, which) in [(&first, "first"), (&second, "second")] {
        let (backup, offsite) = (stage(run, "backup"), stage(run, "offsite"));
        screen.line(&format!(
            "{which}: {} bytes, {} of them new; {} sent offsite",
            backup["logical"], backup["unique"], offsite["wire"]
        ));
    }

    let mut verdicts = Vec::new();
    let both = [
        ("first", 1, &first, first_began),
        ("second", 2, &second, second_began),
    ];
    let mut restore_both = |screen: &mut Screen, identity: &str, from: &str| -> Result<()> {
        for (which, generation, run, began) in both {
            let target = server.fresh(&format!("restored-{which}-from-{from}"));
            let what = format!("{which} snapshot from the {from}");
            let ((), seconds) = screen.step(&format!("restoring the {what}"), |s| {
                server.restore(identity, text(run, "snapshot")?, &target, s)
            })?;
            verdicts.push(compare(
                &what,
                server,
                generation,
                &target,
                &server.problems()?,
                began,
                seconds,
            )?);
        }
        Ok(())
    };
    restore_both(screen, "agent", "site")?;

    screen.step("powering the site off", |_| Ok(site.power_off()?))?;
    let recovery = centre.forwarded(PORTAL)?;
    screen.step(
        "pairing a recovery server with the centre (MSP-held custody)",
        |_| {
            let code = ask(centre, &["pair", "--datastore", &datastore])?;
            server.pair("recovery", recovery, text(&code, "code")?)?;
            let listed = server.list("recovery")?;
            for run in [&first, &second] {
                if !listed.to_string().contains(text(run, "snapshot")?) {
                    bail!("the centre does not list snapshot {}", run["snapshot"]);
                }
            }
            Ok(())
        },
    )?;
    restore_both(screen, "recovery", "centre")?;

    screen.step("booting the site again", |_| {
        boot(site)?;
        until(site, "the uplink and the datastore", |s| {
            s["uplink"]["state"] == "up" && s["engine"]["state"] == "ready"
        })
    })?;
    let (share, _) = screen.step("changing to client-held custody", |s| {
        let changed = ask_shown(s, site, &["custody", "client"])?;
        Ok(text(&changed, "client_share")?.to_owned())
    })?;
    let (refusals, _) = screen.step(
        "asking the centre for a restore without the client's share",
        |s| {
            let own = "holds its own keys";
            let pairing = refusal(centre, &["pair", "--datastore", &datastore], own)?;
            let newest = text(&second, "snapshot")?;
            let restore = refusal(centre, &["restore", newest, "/run/refused"], own)?;
            answer_shown(
                s,
                centre,
                &["pair", "--datastore", &datastore, "--share", "-"],
                &share,
            )
            .context("with the client's share it must go")?;
            Ok(vec![
                (
                    "a recovery pairing without the client's share".to_owned(),
                    pairing,
                ),
                (
                    "a restore at the centre without the client's share".to_owned(),
                    restore,
                ),
            ])
        },
    )?;

    let holds = verdicts.iter().all(Verdict::holds);
    let figures = [
        Figures {
            what: "first backup",
            run: first,
        },
        Figures {
            what: "second backup",
            run: second,
        },
    ];
    Ok((table(&figures, &verdicts, &refusals), holds))
}

fn boot(machine: &Machine) -> Result<()> {
    machine.boot()?;
    let failed = machine
        .run(["systemctl", "--failed", "--plain", "--no-legend"])?
        .text();
    if !failed.trim().is_empty() {
        bail!("{}: units have failed: {}", machine.name(), failed.trim());
    }
    Ok(())
}

fn connected(site: &Machine, server: &mut Server) -> Result<()> {
    let by = site.within(60);
    let is_there = |jobs: &Json| jobs["definitions"][0]["connected"] == true;
    while !is_there(&ask(site, &["jobs"])?) {
        if by.left().is_none() {
            bail!("the agent has not connected to the site");
        }
        server.still_serves()?;
    }
    Ok(())
}

fn leave_up(appliances: Appliances) -> Result<()> {
    println!("\nBoth machines are up:");
    for machine in [appliances.centre, appliances.site] {
        let (name, portal) = (machine.name().to_owned(), machine.forwarded(PORTAL)?);
        println!(
            "  {name:<7} portal {portal}, files {}",
            machine.dir().display()
        );
        println!(
            "          serial console: {}",
            machine.console().socket().display()
        );
        println!(
            "          a shell for tests: ./dev shell {name}    one command: ./dev shell {name} strongroom status"
        );
        machine.leave_up()?;
    }
    println!("Stop them with ./dev stop.");
    Ok(())
}
