//! What an operator types at a site and at its centre, and what `strongroom` answers people and
//! programs.

use crate::rig::{Machine, Server, answering};
use crate::{assert_same, tree};
use nix::pty::openpty;
use runtime::testing::program;
use serde_json::Value as Json;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Beside the daemons; built here when only this package is tested and it never was.
fn strongroom() -> PathBuf {
    let path = program("keyd").with_file_name("strongroom");
    if !path.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = Command::new(cargo)
            .args(["build", "-q", "-p", "ctl"])
            .status();
        assert!(build.unwrap().success(), "ctl does not build");
    }
    path
}

impl Machine {
    fn typed(&self, arguments: &[&str]) -> Command {
        let mut command = self.appliance.command(strongroom());
        command.args(arguments);
        command
    }

    /// What it tells people.
    fn told(&self, arguments: &[&str]) -> String {
        answering(self.typed(arguments), "").unwrap()
    }

    /// What it tells programs.
    fn json(&self, arguments: &[&str]) -> Json {
        self.json_given(arguments, "")
    }

    fn json_given(&self, arguments: &[&str], input: &str) -> Json {
        let mut command = self.typed(arguments);
        command.arg("--json");
        serde_json::from_str(&answering(command, input).unwrap()).unwrap()
    }

    fn refused(&self, arguments: &[&str]) -> String {
        answering(self.typed(arguments), "").unwrap_err()
    }

    /// Has jobd read this line in place of the journal, which a test has none of.
    async fn journal(&mut self, line: &str) {
        let bin = self.appliance.path("bin");
        fs::create_dir(&bin).unwrap();
        let script = |name: &str, text: String| {
            let path = bin.join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        script("journalctl", format!("echo '{line}'"));
        let jobd = format!(
            "PATH={}:$PATH exec {}",
            bin.display(),
            program("jobd").display()
        );
        let jobd = script("strongroom-jobd", jobd);
        self.end("jobd");
        self.appliance.start(jobd, "org.strongroom.Jobs1").await;
    }
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_types_from_the_tenant_to_a_restore_at_the_centre() {
    let mut centre = Machine::centre("client").await;
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    let path = tree.to_str().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();

    // the centre makes a token, the site enrols with it
    let acme = ["centre", "tenant", "Acme", "--custody", "client"];
    let id = centre.json(&acme)["id"].as_str().unwrap().to_owned();
    has(&centre.told(&acme), &["Tenant Acme: ", &id]);
    has(
        &centre.told(&["centre", "token", "Acme", "Spare"]),
        &["Enrolment token: ", "Good once, until "],
    );
    let token = centre.json(&["centre", "token", "Acme", "Main"]);
    assert!(token["expires"].as_i64().unwrap() > 0, "{token}");
    let mut site = Machine::new().await;
    has(&site.told(&["status"]), &["unenrolled", "strongroom enrol"]);
    let empty = site.refused(&["enrol"]);
    has(&empty, &["The token is missing"]);
    let token = token["token"].as_str().unwrap();
    let enrolled = site.json_given(&["enrol", "-"], &format!("{token}\n"));
    assert_eq!(enrolled["tenant_name"], "Acme");
    assert_eq!(enrolled["site_name"], "Main");
    site.token = token.into();
    site.datastore = enrolled["datastore"].as_str().unwrap().into();
    site.share = enrolled["client_share"].as_str().unwrap().into();
    site.joined(&centre).await;

    // a server is paired, and backed up by a definition
    has(
        &site.told(&["pair"]),
        &["Pairing code: ", "strongroom-agent pair"],
    );
    let code = site.json(&["pair"])["code"].as_str().unwrap().to_owned();
    let server = Server::pair(dir.path().join("agent"), &site.endpoint, &code);
    let agents = site.json(&["agents"]);
    assert_eq!(agents[0]["name"], "server");
    assert_eq!(agents[0]["scope"], "backup");
    has(
        &site.told(&["agents"]),
        &["AGENT", "server", agents[0]["id"].as_str().unwrap()],
    );
    let define = [
        "jobs", "define", "nightly", "--agent", "server", "--path", path,
    ];
    assert_eq!(site.json(&define)["changed"], true);
    assert_eq!(site.told(&define), "nightly was so already.\n");
    let away = site.refused(&["jobs", "run", "nightly"]);
    has(&away, &["nightly is not connected; start strongroom-agent"]);
    let serving = server.serve();
    site.attached("nightly").await;
    let run = site.json(&["jobs", "run", "nightly"]);
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["stages"][0]["name"], "backup");
    assert_eq!(run["stages"][1]["state"], "succeeded");
    let first = run["snapshot"].as_str().unwrap();
    has(
        &site.told(&["jobs", "run", "nightly"]),
        &["nightly: succeeded, snapshot "],
    );
    let jobs = site.json(&["jobs"]);
    assert_eq!(jobs["definitions"][0]["connected"], true);
    assert_eq!(jobs["definitions"][0]["paths"][0], path);
    assert_eq!(jobs["runs"].as_array().unwrap().len(), 2);
    assert_eq!(jobs["runs"][1]["snapshot"], first);
    has(
        &site.told(&["jobs"]),
        &["DEFINITION", "connected  backup, offsite", first],
    );
    let gone = at("gone");
    site.told(&[
        "jobs", "define", "gone", "--agent", "server", "--path", &gone,
    ]);
    let sentence = format!("{gone} does not exist; check the path to protect");
    has(&site.refused(&["jobs", "run", "gone"]), &[&sentence]);
    let failed = &site.json(&["jobs"])["runs"][0];
    assert_eq!(failed["state"], "failed", "{failed}");
    has(&failed["stages"][0]["message"].to_string(), &[&sentence]);
    drop(serving);

    // what is kept, and back again
    let snapshots = site.json(&["snapshots"]);
    assert_eq!(snapshots.as_array().unwrap().len(), 2);
    assert_eq!(snapshots[1]["id"], first);
    assert_eq!(snapshots[1]["offsite"], true);
    assert_eq!(snapshots[1]["paths"][0], path);
    has(&site.told(&["snapshots"]), &["SNAPSHOT", first, "copied"]);
    let target = at("for people");
    has(
        &site.told(&["restore", "latest", &target]),
        &["entries, ", " restored to "],
    );
    assert_same(&tree, target.as_ref());
    let target = at("for programs");
    let restored = site.json(&["restore", first, &target]);
    assert_eq!(restored["snapshot"], first);
    assert_eq!(restored["entries"], snapshots[1]["entries"]);
    assert_eq!(restored["problem_count"], 0);
    assert_same(&tree, target.as_ref());
    has(
        &site.refused(&["restore", "xyz", &at("nowhere")]),
        &["there is no snapshot xyz here; `strongroom snapshots` lists them"],
    );
    let status = site.json(&["status"]);
    assert_eq!(status["appliance"]["state"], "site");
    assert_eq!(status["engine"]["state"], "ready");
    assert_eq!(status["engine"]["datastores"][0]["snapshots"], 2);
    assert_eq!(status["pool"]["state"], "silent");
    let told = site.told(&["status"]);
    has(
        &told,
        &[
            "Main of Acme",
            "poold is not running; `systemctl status",
            "own",
        ],
    );

    // the journal, and a daemon that is not there
    site.journal(
        r#"{"__REALTIME_TIMESTAMP":"1700000000000001","_SYSTEMD_UNIT":"strongroom-keyd.service","MESSAGE":" WARN keyd: refused a caller"}"#,
    )
    .await;
    let log = site.json(&["log"]);
    assert_eq!(log[0]["daemon"], "keyd");
    assert_eq!(log[0]["time"], 1_700_000_000_000_001_i64);
    has(
        &site.told(&["log"]),
        &["keyd     warning keyd: refused a caller"],
    );
    site.end("jobd");
    has(&site.refused(&["jobs"]), &["jobd is not running"]);

    // the centre has what it cannot read, and restores with the share
    let copies = centre.json(&["snapshots"]);
    assert_eq!(copies[1]["id"], first);
    assert!(copies[1].get("host").is_none(), "{copies}");
    has(&centre.told(&["snapshots"]), &["SNAPSHOT", first]);
    let target = at("at the centre");
    let refused = centre.refused(&["restore", first, &target]);
    has(&refused, &["holds its own keys"]);
    let share = site.share.clone();
    let argument = centre.refused(&["restore", first, &target, "--share", &share]);
    has(&argument, &["a share is no argument", "`--share -`"]);
    let given = centre.json_given(&["restore", first, &target, "--share"], &share);
    assert_eq!(given["entries"], snapshots[1]["entries"]);
    assert_same(&tree, target.as_ref());
    let target = at("at the centre, for people");
    let typed = centre.typed(&["restore", "--share", "-", first, &target]);
    has(&answering(typed, &share).unwrap(), &[" restored to "]);
    assert_same(&tree, target.as_ref());
    let pair = ["pair", "--datastore", &site.datastore, "--share", "-"];
    let paired = centre.json_given(&pair, &format!("{share}\n"));
    assert!(paired["code"].as_str().is_some(), "{paired}");
    let seen = typed_at_a_terminal(centre.typed(&pair[..4]), "The client's share: ", &share);
    has(&seen, &["Pairing code: "]);
    assert!(!seen.contains(&share), "{seen}");

    // a silent daemon is told, and hides nothing of the others
    assert_eq!(centre.json(&["status"])["sites"][0]["name"], "Main");
    centre.end("centred");
    let status = centre.json(&["status"]);
    assert_eq!(status["centre"]["state"], "silent");
    assert_eq!(status["engine"]["state"], "ready");
    has(&centre.told(&["status"]), &["centred is not running; "]);
}

/// Runs it at a terminal and types `answer` at `question`; all that the terminal showed.
fn typed_at_a_terminal(mut command: Command, question: &str, answer: &str) -> String {
    let pty = openpty(None, None).unwrap();
    let end = || Stdio::from(pty.slave.try_clone().unwrap());
    command.stdin(end()).stdout(end()).stderr(end());
    let mut child = command.spawn().unwrap();
    // only the child's ends are left, with which the reading ends
    drop((command, pty.slave));
    let mut terminal = File::from(pty.master);
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    // Linux ends a terminal without a program with an error
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        let waited = seen.ends_with(question.as_bytes());
        seen.extend_from_slice(&buffer[..count]);
        if !waited && seen.ends_with(question.as_bytes()) {
            writeln!(terminal, "{answer}").unwrap();
        }
    }
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(child.wait().unwrap().success(), "{seen}");
    seen
}
