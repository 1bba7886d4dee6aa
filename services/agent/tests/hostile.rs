//! Peers that do not keep to the protocol: each ends with its session, and nothing else does.

mod bench;

use bench::{Appliance, job, noise};
use protocol::frame::aio;
use protocol::intake::{Begin, FromAgent, FromSite, Terms};
use protocol::session::{Kind, Open};
use std::fs;
use std::io::Write;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

fn begin() -> FromAgent {
    FromAgent::Begin(Begin {
        run: String::new(),
        host: "h".into(),
        source: String::new(),
        paths: vec![],
    })
}

async fn begun(server: &bench::Server) -> (UnixStream, Terms) {
    let mut stream = server.session(Kind::Intake).await.unwrap();
    let Some(FromSite::Terms(terms)) = aio::read(&mut stream).await.unwrap() else {
        panic!()
    };
    aio::write(&mut stream, &begin()).await.unwrap();
    (stream, terms)
}

async fn last_words(stream: &mut UnixStream) -> String {
    loop {
        match aio::read(stream).await.unwrap() {
            Some(FromSite::Failed(sentence)) => return sentence,
            Some(FromSite::Known(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn entry(path: &str, size: u64) -> FromAgent {
    use format::entry::{Entry, Kind, Timestamp};
    FromAgent::Entry(Box::new(
        (&Entry {
            path: path.into(),
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            user: vec![],
            group: vec![],
            modified: Timestamp::default(),
            xattrs: vec![],
            size,
            content: vec![],
        })
            .into(),
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_cannot_name_what_it_did_not_send() {
    let site = Appliance::site();
    let (victim, thief) = (site.pair("v", "backup"), site.pair("t", "backup"));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), noise(20_000, 1)).unwrap();
    victim.back_up(job(dir.path(), None)).await.unwrap();
    // the thief even has the bytes' digest under its own key, and asks for them
    let (mut stream, terms) = begun(&thief).await;
    let digest = chunking::DigestKeys::new(&terms.digest_key).data(&noise(20_000, 1));
    let have = FromAgent::Have(protocol::digests::Digests(vec![digest]));
    aio::write(&mut stream, &have).await.unwrap();
    let Some(FromSite::Known(known)) = aio::read(&mut stream).await.unwrap() else {
        panic!()
    };
    assert_eq!(known.answers(1).unwrap().collect::<Vec<_>>(), [false]);
    let content = FromAgent::Content(vec![protocol::entry::Run::Data(digest.0, 20_000)]);
    aio::write(&mut stream, &content).await.unwrap();
    assert!(
        last_words(&mut stream)
            .await
            .contains("a chunk that was not sent")
    );
    assert!(thief.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_protocol_is_told_why_and_the_next_session_works() {
    let site = Appliance::site();
    let server = site.pair("a", "backup");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "x").unwrap();
    let chunk = FromAgent::Chunk(vec![1; 100]);
    let run = |digest: [u8; 32], length| {
        FromAgent::Content(vec![protocol::entry::Run::Data(digest, length)])
    };
    let keys = |terms: &Terms| chunking::DigestKeys::new(&terms.digest_key);
    type Make<'a> = Box<dyn Fn(&Terms) -> Vec<FromAgent> + 'a>;
    let cases: Vec<(&str, Make<'_>)> = vec![
        ("a second beginning", Box::new(|_| vec![begin()])),
        (
            "an end before an entry",
            Box::new(|_| vec![FromAgent::Commit]),
        ),
        (
            "entries out of order",
            Box::new(|_| vec![entry("b", 0), entry("a", 0)]),
        ),
        ("an entry's path", Box::new(|_| vec![entry("../a", 0)])),
        ("not as long as it says", Box::new(|_| vec![entry("a", 5)])),
        (
            "a chunk of another length",
            Box::new(|terms| {
                let digest = keys(terms).data(&[1; 100]).0;
                vec![chunk.clone(), run(digest, 99)]
            }),
        ),
        (
            "not as long as it says",
            Box::new(|terms| {
                let digest = keys(terms).data(&[1; 100]).0;
                let content = [chunk.clone(), run(digest, 100)];
                [&content[..], &[FromAgent::Discard, entry("a", 100)]].concat()
            }),
        ),
    ];
    for (words, messages) in cases {
        let (mut stream, terms) = begun(&server).await;
        for message in messages(&terms) {
            aio::write(&mut stream, &message).await.unwrap();
        }
        let sentence = last_words(&mut stream).await;
        assert!(sentence.contains(words), "{sentence}");
        server.back_up(job(dir.path(), None)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_and_early_ends_hurt_nobody() {
    let site = Appliance::site();
    let server = site.pair("a", "backup");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "x").unwrap();
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 64], &[0; 64]] {
        let mut stream = server.dial();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
    }
    // a session that opens as what its connection is not
    let mut stream = server.dial();
    aio::write(&mut stream, &Open::new(Kind::Replicate))
        .await
        .unwrap();
    assert!(matches!(
        aio::read(&mut stream).await.unwrap(),
        Some(protocol::session::Verdict::Refused(_))
    ));
    // cut in the middle of a backup, at many places
    for cut in 0..6 {
        let (mut stream, _) = begun(&server).await;
        let mut bytes = Vec::new();
        for n in 0..3u8 {
            protocol::frame::append(&FromAgent::Chunk(noise(50_000, u64::from(n))), &mut bytes)
                .unwrap();
        }
        let end = bytes.len() * cut / 6;
        stream.write_all(&bytes[..end]).await.unwrap();
        drop(stream);
    }
    server.back_up(job(dir.path(), None)).await.unwrap();
    assert_eq!(server.list().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cut_backup_sent_is_not_sent_again() {
    let site = Appliance::site();
    let server = site.pair("a", "backup");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), noise(4 << 20, 5)).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let counters = std::sync::Arc::new(agent::backup::Counters::default());
    // stopped when about half of it is sent
    fs::write(dir.path().join("z"), noise(4 << 20, 6)).unwrap();
    let prepared = agent::backup::Prepared::new(job(dir.path(), None)).unwrap();
    let stream = server.session(Kind::Intake).await.unwrap();
    let (seen, stopper) = (counters.clone(), stop.clone());
    let watching = tokio::spawn(async move {
        while seen.progress().sent < 4 << 20 {
            tokio::task::yield_now().await;
        }
        stopper.cancel();
    });
    let ended = prepared.run(stream, counters, stop).await;
    watching.await.unwrap();
    if let Err(error) = ended {
        assert!(matches!(error, agent::Error::Cancelled), "{error}");
        assert!(server.list().await.unwrap().is_empty());
        // it ends in engined when that has read what was on its way
        let again = loop {
            let again = server
                .back_up(job(dir.path(), None))
                .await
                .unwrap()
                .committed;
            if again.logical > 0 {
                break again;
            }
        };
        assert!(again.wire < 6 << 20, "{again:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_is_told_in_one_sentence_and_earlier_snapshots_are_whole() {
    let Some(mount) = bench::SmallDisk::new() else {
        return;
    };
    let site = Appliance::site_on(mount.path());
    let server = site.pair("a", "backup");
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("f"), noise(2 << 20, 1)).unwrap();
    let kept = server
        .back_up(job(&tree, None))
        .await
        .unwrap()
        .committed
        .snapshot;
    let full = dir.path().join("full");
    fs::create_dir(&full).unwrap();
    let mut big = fs::File::create(full.join("big")).unwrap();
    for n in 0..40 {
        big.write_all(&noise(1 << 20, 100 + n)).unwrap();
    }
    let sentence = server
        .back_up(job(&full, None))
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        sentence,
        "the pool is full; nothing of this backup is kept as a snapshot and earlier ones are \
         whole: leave more out of the backup, or give this site a larger pool (this release \
         neither adds disks to a pool nor removes snapshots)"
    );
    let target = dir.path().join("restored");
    server.restore(kept, "", &target).await.unwrap();
    bench::assert_same(&tree, &target);
    assert_eq!(server.list().await.unwrap().len(), 1);
}
