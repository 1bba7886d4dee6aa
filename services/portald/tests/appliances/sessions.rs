use crate::agent::{self, Identity};
use crate::rig::{Machine, text};
use contract::{Error, Options};
use protocol::session::{Kind, Open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn paired(site: &Machine) -> Identity {
    let portal = site.portal().await;
    let (code, _) = portal.open_pairing(Options::new()).await.unwrap();
    agent::pair(&site.endpoint, &code).await.unwrap()
}

/// A session of this kind, its whole content sent and ended, and what comes back.
async fn session(agent: &Identity, place: &str, kind: Kind, content: &[u8]) -> Vec<u8> {
    let mut tls = agent.dial(place).await.unwrap();
    let open = protocol::frame::encode(&Open::new(kind)).unwrap();
    tls.write_all(&open).await.unwrap();
    tls.write_all(content).await.unwrap();
    tls.shutdown().await.unwrap();
    let mut back = Vec::new();
    tls.read_to_end(&mut back).await.unwrap();
    let greeting = back.len() - open.len() - content.len();
    assert_eq!(back[greeting..greeting + open.len()], open);
    assert_eq!(back[greeting + open.len()..], *content);
    back.truncate(greeting);
    back
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_where_their_first_message_says_every_byte_and_both_ends() {
    let centre = Machine::centre().await;
    let site = Machine::site(&centre, "Acme", "Main street").await;
    let agent = paired(&site).await;
    let id = &agent.paired.agent;
    let much: Vec<u8> = (0..3_000_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    for (kind, greeting) in [
        (Kind::Control, format!("jobd {id} ")),
        (Kind::Intake, format!("engined agent {id} ")),
        (Kind::Restore, format!("engined agent {id} ")),
        (Kind::List, format!("engined agent {id} ")),
    ] {
        let got = session(&agent, &site.endpoint, kind, &much).await;
        assert_eq!(String::from_utf8_lossy(&got), greeting);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_tenants_site_gets_nothing() {
    let centre = Machine::centre().await;
    let site = Machine::site(&centre, "Acme", "Main street").await;
    let other = Machine::site(&centre, "Bolt", "Side street").await;
    let mut agent = paired(&other).await;
    // it knows the site's authority, as anyone can who looks at a handshake
    agent.paired.authority = site.keys().await.authority("agents").await.unwrap();
    assert!(refused(&agent, &site.endpoint).await);
    // and a site's agent does not pass at the centre, where recovery agents do
    agent.paired.authority = centre.keys().await.authority("agents").await.unwrap();
    agent.paired.names = vec!["centre.strongroom".into()];
    assert!(refused(&agent, &centre.endpoint).await);
    // each journal says whom it refused, and what next
    let sentence = format!(
        "no handshake: it says it is agent {:?}, and its certificate is not of an authority of \
         ours; if it belongs here, pair or enrol it again",
        agent.paired.agent
    );
    for machine in [site, centre] {
        // written before the daemon ends, at the latest
        let mut machine = machine;
        machine.end("portald", nix::sys::signal::Signal::SIGTERM);
        let log = machine.log("portald");
        assert!(log.contains(&sentence), "{log}");
    }
}

/// In TLS 1.3 a client learns that its certificate is refused when it reads.
async fn refused(agent: &Identity, place: &str) -> bool {
    let Ok(mut tls) = agent.dial(place).await else {
        return true;
    };
    let open = protocol::frame::encode(&Open::new(Kind::Intake)).unwrap();
    let _ = tls.write_all(&open).await;
    let _ = tls.shutdown().await;
    let mut back = Vec::new();
    let _ = tls.read_to_end(&mut back).await;
    back.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_reaches_its_centre_inside_the_tunnel_as_itself() {
    let centre = Machine::centre().await;
    let mut site = Machine::site(&centre, "Acme", "Main street").await;
    let unconfigured = site.portal().await.dial("replicate", Options::new()).await;
    assert!(
        matches!(unconfigured, Err(Error::UplinkDown(_))),
        "{unconfigured:?}"
    );
    site.tunnel_to(&centre).await;
    let stream = site
        .portal()
        .await
        .dial("replicate", Options::new())
        .await
        .unwrap();
    let mut stream = runtime::pipe::adopt_stream(stream).unwrap();
    stream.write_all(b"chunks").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    let membership = site.enrol().await.membership().await.unwrap();
    assert_eq!(
        back,
        format!("engined site {} chunks", text(&membership, "site"))
    );
    let odd = site.portal().await.dial("elsewhere", Options::new()).await;
    assert!(matches!(odd, Err(Error::InvalidArgument(_))));
}
