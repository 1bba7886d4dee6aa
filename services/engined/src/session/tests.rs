use super::*;
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::collections::HashMap;

/// Agents and sites in memory.
#[derive(Default)]
struct List {
    agents: HashMap<String, Agent>,
    sites: HashMap<String, Site>,
}

impl Peers for List {
    fn agent(&self, id: &str) -> Result<Option<Agent>, Error> {
        Ok(self.agents.get(id).cloned())
    }
    fn site(&self, id: &str) -> Result<Option<Site>, Error> {
        Ok(self.sites.get(id).cloned())
    }
    fn sign(&self, _: &str, _: &[u8]) -> Result<[u8; 64], Error> {
        Err(Error::Failed("nobody signs here".into()))
    }
    fn identity(&self) -> Result<[u8; 32], Error> {
        Err(Error::Failed("nobody signs here".into()))
    }
}

fn key() -> Ed25519KeyPair {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()
}

fn public(key: &Ed25519KeyPair) -> [u8; 32] {
    key.public_key().as_ref().try_into().unwrap()
}

/// An agent's answer to the challenge, as `says`.
fn prove(theirs: &mut UnixStream, kind: Kind, with: &Ed25519KeyPair, says: &str) {
    let challenge: Challenge = frame::read(theirs).unwrap().unwrap();
    let signature = with.sign(&agent_message(&challenge, kind));
    let signature = signature.as_ref().try_into().unwrap();
    let id = says.into();
    frame::write(theirs, &Proof { id, signature }).unwrap();
}

/// What an agent proves when it signs `signs` with `with` as `says`, where portald says `a`.
fn proved(
    list: &List,
    kind: Kind,
    signs: Kind,
    with: &Ed25519KeyPair,
    says: &str,
) -> Result<Who, Ended> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut theirs = theirs;
            prove(&mut theirs, signs, with, says);
        });
        agent(list, "a", kind, &mut Line::new(ours).unwrap())
    })
}

#[test]
fn an_agent_is_who_signs_with_the_key_of_the_list_for_this_kind() {
    let (right, wrong) = (key(), key());
    let mut list = List::default();
    let record = |scope: &str| Agent {
        scope: scope.into(),
        public: public(&right),
    };
    list.agents.insert("a".into(), record("backup"));
    let who = proved(&list, Kind::Intake, Kind::Intake, &right, "a")
        .ok()
        .unwrap();
    assert_eq!((who.id.as_str(), who.scope), ("a", Scope::Backup));
    let sentences: Vec<_> = [
        proved(&list, Kind::Intake, Kind::Intake, &wrong, "a"),
        proved(&list, Kind::Restore, Kind::List, &right, "a"),
        proved(&list, Kind::Intake, Kind::Intake, &right, "b"),
        proved(&List::default(), Kind::Intake, Kind::Intake, &right, "a"),
    ]
    .into_iter()
    .map(|refused| refused.err().unwrap().sentence().unwrap())
    .collect();
    // no way of being a stranger is told from another
    assert!(
        sentences.iter().all(|s| *s == sentences[0]),
        "{sentences:?}"
    );

    let datastore = DatastoreId([7; 16]);
    list.agents
        .insert("a".into(), record(&format!("restore:{datastore}")));
    let who = proved(&list, Kind::Restore, Kind::Restore, &right, "a")
        .ok()
        .unwrap();
    assert_eq!(who.scope, Scope::Restore(datastore));
    assert!(proved(&list, Kind::Intake, Kind::Intake, &right, "a").is_err());
    list.agents.insert("a".into(), record("anything"));
    assert!(proved(&list, Kind::Restore, Kind::Restore, &right, "a").is_err());
}

#[test]
fn a_site_signs_with_its_own_prefix() {
    let key = key();
    let record = Site {
        datastore: DatastoreId([1; 16]),
        public: public(&key),
    };
    let list = List {
        sites: HashMap::from([("s".into(), record)]),
        ..List::default()
    };
    let prove = |message: fn(&Challenge) -> Vec<u8>| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut theirs = theirs;
                let challenge: Challenge = frame::read(&mut theirs).unwrap().unwrap();
                let signature = key.sign(&message(&challenge)).as_ref().try_into().unwrap();
                frame::write(
                    &mut theirs,
                    &Proof {
                        id: "s".into(),
                        signature,
                    },
                )
                .unwrap();
            });
            site(&list, "s", &mut Line::new(ours).unwrap())
        })
    };
    assert!(prove(|c| site_signed(c, Kind::Replicate)).is_ok());
    assert!(prove(|c| agent_message(c, Kind::Replicate)).is_err());
    assert!(prove(|c| site_signed(c, Kind::Intake)).is_err());
}

#[test]
fn who_has_all_the_sessions_it_may_hears_so_and_no_stranger_does() {
    let key = key();
    let mut list = List::default();
    let record = Agent {
        scope: "backup".into(),
        public: public(&key),
    };
    list.agents.insert("a".into(), record);
    let dir = tempfile::tempdir().unwrap();
    let (added, _) = tokio::sync::mpsc::unbounded_channel();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let house = House::new(Arc::new(list), dir.path().into(), added, shutdown).unwrap();
    let peer = Peer::Agent("a".into());
    let taken: Vec<_> = std::iter::repeat_with(|| house.seats.peer(&peer).unwrap())
        .take_while(|(_, refusal)| refusal.is_none())
        .collect();
    let hears = |says: &str| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        accept(&house, peer.clone(), ours).unwrap();
        frame::write(&mut theirs, &Open::new(Kind::Intake)).unwrap();
        prove(&mut theirs, Kind::Intake, &key, says);
        let verdict: Verdict = frame::read(&mut theirs).unwrap().unwrap();
        let Verdict::Refused(sentence) = verdict else {
            panic!("{verdict:?}")
        };
        // until it has ended: it is one of a peer
        drop(theirs);
        while house.seats.peer(&peer).is_err() {
            std::thread::yield_now();
        }
        sentence
    };
    let sentence = hears("a");
    assert!(sentence.contains("as many as one peer may"), "{sentence}");
    let sentence = hears("b");
    assert!(sentence.contains("does not know the peer"), "{sentence}");
    drop(taken);
    let sentence = hears("a");
    assert!(sentence.contains("just started"), "{sentence}");
}

#[test]
fn silence_and_noise_end_a_session() {
    let list = List::default();
    for noise in [&b""[..], b"\xff\xff\xff\xff", b"\x01\0\0\0\xff"] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut theirs, noise).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let error = agent(&list, "a", Kind::Intake, &mut Line::new(ours).unwrap())
            .err()
            .unwrap();
        assert!(matches!(error, Ended::Wire(_)), "{error}");
    }
}
