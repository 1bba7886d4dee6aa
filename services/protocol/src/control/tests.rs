use super::*;
use crate::frame::{decode, encode};
use crate::fuzz::{again, message};

fn backup(run: &str) -> Backup {
    Backup {
        run: run.into(),
        definition: "nightly".into(),
        paths: vec![Path(b"/srv".to_vec())],
        excludes: vec![],
    }
}

fn attached(serves: bool) -> (Agent, Site) {
    let (agent, hello) = Agent::begin("host", "0.1.0", serves);
    let mut site = Site::default();
    let event = site.receive(hello).unwrap();
    assert!(matches!(event, SiteEvent::Attached { serves: s, .. } if s == serves));
    (agent, site)
}

#[test]
fn an_ordered_run_goes_through() {
    let (mut agent, mut site) = attached(true);
    assert!(site.is_free());
    let event = agent.receive(site.start(backup("1")).unwrap()).unwrap();
    assert_eq!(event, AgentEvent::Start(backup("1")));
    assert!(!site.is_free() && site.start(backup("2")).is_none());
    let progress = Progress {
        done: 5,
        ..Progress::default()
    };
    let event = site
        .receive(agent.progress(progress.clone()).unwrap())
        .unwrap();
    assert_eq!(event, SiteEvent::Progress(progress));
    let stats = Stats {
        logical: 9,
        ..Stats::default()
    };
    let event = site
        .receive(agent.finished(Ok(stats.clone())).unwrap())
        .unwrap();
    assert_eq!(event, SiteEvent::Finished(Ok(Box::new(stats))));
    assert!(agent.finished(Err("twice".into())).is_none());
    let event = agent
        .receive(site.update("offsite", "copies", 1, 2).unwrap())
        .unwrap();
    assert!(matches!(event, AgentEvent::Update { stage, .. } if stage == "offsite"));
    let event = agent.receive(site.ended(true, "done").unwrap()).unwrap();
    assert_eq!(
        event,
        AgentEvent::Ended {
            succeeded: true,
            message: "done".into()
        }
    );
    assert!(site.is_free());
}

#[test]
fn a_command_asks_and_is_given_no_other_order() {
    let (mut agent, mut site) = attached(false);
    assert!(!site.is_free());
    let paths = vec![Path(b"/home".to_vec())];
    let event = site
        .receive(agent.request("", paths.clone(), vec![]))
        .unwrap();
    assert!(matches!(event, SiteEvent::Request { paths: p, .. } if p == paths));
    let event = agent.receive(site.refuse("no").unwrap()).unwrap();
    assert_eq!(event, AgentEvent::Refused("no".into()));
    assert!(site.refuse("again").is_none());
    site.receive(agent.request("nightly", vec![], vec![]))
        .unwrap();
    agent.receive(site.start(backup("1")).unwrap()).unwrap();
    assert_eq!(
        site.receive(agent.cancel().unwrap()).unwrap(),
        SiteEvent::Cancel
    );
    assert_eq!(
        agent.receive(site.cancel().unwrap()).unwrap(),
        AgentEvent::Cancel
    );
    site.receive(agent.finished(Err("stopped".into())).unwrap())
        .unwrap();
    assert!(site.cancel().is_none());
}

#[test]
fn what_is_out_of_order_is_refused() {
    let mut site = Site::default();
    assert!(site.receive(FromAgent::Ping).is_err());
    let (mut agent, mut site) = attached(true);
    assert!(site.receive(Agent::begin("x", "y", true).1).is_err());
    let progress = FromAgent::Progress {
        run: "1".into(),
        progress: Progress::default(),
    };
    assert!(site.receive(progress.clone()).is_err());
    site.start(backup("2")).unwrap();
    assert!(site.receive(progress).is_err());
    assert!(
        agent
            .receive(FromSite::Refused(Sentence::new("of nothing")))
            .is_err()
    );
    let ended = FromSite::RunEnded {
        run: "1".into(),
        succeeded: true,
        message: Sentence::new(""),
    };
    assert!(agent.receive(ended).is_err());
    agent.receive(FromSite::Start(backup("1"))).unwrap();
    assert!(agent.receive(FromSite::Start(backup("2"))).is_err());
}

#[test]
fn a_peers_counts_are_bounded() {
    let many = |count| FromAgent::RequestRun {
        definition: String::new(),
        paths: vec![Path(vec![]); count],
        excludes: vec![],
    };
    assert!(decode::<FromAgent>(&encode(&many(MAX_PATHS)).unwrap()[4..]).is_ok());
    assert!(decode::<FromAgent>(&encode(&many(MAX_PATHS + 1)).unwrap()[4..]).is_err());
    let long = FromAgent::Cancel {
        run: "x".repeat(129),
    };
    assert!(decode::<FromAgent>(&encode(&long).unwrap()[4..]).is_err());
}

#[test]
fn any_bytes_are_understood_or_refused() {
    bolero::check!()
        .with_type::<Vec<(u8, Vec<u8>)>>()
        .for_each(|messages| {
            let (mut agent, mut site) = attached(true);
            for (kind, bytes) in messages {
                let bytes = message(*kind, 6, bytes);
                if let Some(message) = again::<FromAgent>(&bytes) {
                    let _ = site.receive(message);
                }
                if let Some(message) = again::<FromSite>(&bytes) {
                    let _ = agent.receive(message);
                }
                // the site's own steps, at any time
                match bytes[..] {
                    [0, ..] => drop(site.start(backup("1"))),
                    [1, ..] => drop(site.refuse("no")),
                    [2, ..] => drop(site.ended(true, "done")),
                    _ => {}
                }
            }
        });
}
