use crate::agent;
use crate::rig::Machine;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// All that a peer sends until it closes.
async fn everything(mut stream: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut got = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut got)).await;
    assert!(read.is_ok(), "it was not closed");
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_a_handshake_at_most() {
    let centre = Machine::centre().await;
    let site = Machine::site(&centre, "Acme", "Main street").await;
    for place in [&site.endpoint, &centre.endpoint, &centre.tunnel] {
        for alpn in [
            None,
            Some(&b"h2"[..]),
            Some(protocol::ALPN_AGENT),
            Some(protocol::ALPN_SITE),
            Some(protocol::pairing::ALPN),
        ] {
            let Ok(mut tls) = agent::anyone(place, alpn).await else {
                continue; // not even that
            };
            let _ = tls.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
            let got = everything(tls).await;
            assert!(got.is_empty(), "{place} {alpn:?}: {got:?}");
        }
    }
    // enrolment and time are a centre's; replication and control the tunnel's
    for (place, alpn) in [
        (&site.endpoint, protocol::enrol::ALPN),
        (&site.endpoint, protocol::time::ALPN),
        (&site.endpoint, protocol::enrol::custody::ALPN),
        (&centre.tunnel, protocol::enrol::ALPN),
        (&centre.tunnel, protocol::ALPN_AGENT),
        (&centre.endpoint, protocol::ALPN_SITE),
    ] {
        assert!(
            agent::anyone(place, Some(alpn)).await.is_err(),
            "{place} {alpn:?}"
        );
    }
    let mut plain = TcpStream::connect(&site.endpoint).await.unwrap();
    plain.write_all(&[0x55; 100_000]).await.unwrap_or(());
    let got = everything(plain).await;
    assert!(got.len() < 10, "{got:?}"); // a TLS alert
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_to_the_enrolment_service_ends_there() {
    let centre = Machine::centre().await;
    for nonsense in [
        &b"\xff\xff\xff\xff"[..],
        b"\x04\0\0\0abcd",
        b"\x01\0\0\0\x02",
    ] {
        let alpn = Some(protocol::enrol::ALPN);
        let mut tls = agent::anyone(&centre.endpoint, alpn).await.unwrap();
        tls.write_all(nonsense).await.unwrap();
        assert!(everything(tls).await.is_empty());
    }
    // it is still there for others
    centre.token("Acme", "Main street").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_bounded_slow_ones_are_closed_and_others_come_through() {
    let centre = Machine::centre().await;
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(TcpStream::connect(&centre.endpoint).await.unwrap());
    }
    let begun = Instant::now();
    let mut ends = Vec::new();
    for stream in flood {
        // most are closed at once
        assert!(everything(stream).await.is_empty());
        ends.push(begun.elapsed());
    }
    let slow = ends
        .iter()
        .filter(|end| **end > Duration::from_secs(5))
        .count();
    // those that were let in held on for their ten seconds, and those behind them in this loop
    assert!(slow > 0);
    assert!(begun.elapsed() < Duration::from_secs(15));
    let log = centre.log("portald");
    assert!(
        log.contains("too many connections whose peer is not known"),
        "{log}"
    );
    let alpn = Some(protocol::time::ALPN);
    let tls = agent::anyone(&centre.endpoint, alpn).await.unwrap();
    assert_eq!(everything(tls).await.len(), protocol::time::LEN);
}
