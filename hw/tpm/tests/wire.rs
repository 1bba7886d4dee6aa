//! What somebody sees who listens on the wires to the chip.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use tpm::testing::Swtpm;
use tpm::{Policy, Sealer};

const SECRET: [u8; 32] = *b"nobody on the wire may see this.";

/// Forwards `from` to the port `to` and keeps every byte of both directions.
fn listen(from: TcpListener, to: u16, heard: &Arc<Mutex<Vec<u8>>>) {
    let heard = heard.clone();
    // ends with the test's process: accept has no end of its own
    std::thread::spawn(move || {
        for client in from.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], to))).unwrap();
            for (mut source, mut target) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ] {
                let heard = heard.clone();
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(n) = source.read(&mut buffer)
                        && n > 0
                    {
                        heard.lock().unwrap().extend_from_slice(&buffer[..n]);
                        if target.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = target.shutdown(Shutdown::Write);
                });
            }
        }
    });
}

/// Two neighbouring ports of the loopback, as the TCTI wants them.
fn two_listeners() -> (TcpListener, TcpListener, u16) {
    for _ in 0..50 {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if let Some(next) = port.checked_add(1)
            && let Ok(second) = TcpListener::bind(("127.0.0.1", next))
        {
            return (first, second, port);
        }
    }
    panic!("no two neighbouring free ports");
}

fn contains(heard: &[u8], what: &[u8]) -> bool {
    heard.windows(what.len()).any(|w| w == what)
}

#[test]
fn the_secret_crosses_the_wire_in_cipher_only_both_ways() {
    let tpm = Swtpm::new();
    let port: u16 = tpm.tcti().rsplit('=').next().unwrap().parse().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (data, control, through) = two_listeners();
    listen(data, port, &heard);
    listen(control, port + 1, &heard);
    let sealer = Sealer::new(&format!("swtpm:host=127.0.0.1,port={through}")).unwrap();
    let sealed = sealer.seal(&SECRET, &Policy::literal([7])).unwrap();
    assert_eq!(*sealer.unseal(&sealed).unwrap(), SECRET);

    let heard = heard.lock().unwrap();
    // the ear works: it heard the sealed object's public part
    let value = serde_json::to_value(&sealed).unwrap();
    let public = value["public"].as_str().unwrap();
    let public = data_encoding::HEXLOWER.decode(public.as_bytes()).unwrap();
    assert!(contains(&heard, &public));
    for part in SECRET.chunks(8) {
        assert!(!contains(&heard, part));
    }
}
