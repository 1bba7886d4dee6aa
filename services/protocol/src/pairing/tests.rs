use super::*;
use crate::fuzz::message;
use proptest::prelude::*;

const SESSION: [u8; EXPORTER] = [5; EXPORTER];

fn code(text: &str) -> Code {
    text.parse().unwrap()
}

fn request() -> Request {
    Request {
        name: "files".into(),
        csr: vec![1, 2, 3],
    }
}

fn paired() -> Paired {
    Paired {
        agent: "a1".into(),
        chain: vec![vec![4; 700], vec![5; 600]],
        authority: vec![5; 600],
        names: vec!["portal.strongroom.internal".into()],
        scope: "backup".into(),
    }
}

/// Both halves until one ends, bytes passed on in pieces of `piece`; how many guesses were wrong
/// is counted in `wrong`.
fn play(mut agent: Agent, mut site: Site, wrong: &mut u8, piece: usize) -> Result<Paired, Error> {
    loop {
        for bytes in agent.output().chunks(piece) {
            match site.receive(bytes)? {
                None => {}
                Some(Event::Guessed { right: true }) => site.confirm(),
                Some(Event::Guessed { right: false }) => {
                    *wrong += 1;
                    site.refuse(Some(TRIES - *wrong));
                }
                Some(Event::Asked(asked)) => {
                    assert_eq!(asked, request());
                    site.pair(paired());
                }
            }
        }
        let output = site.output();
        if output.is_empty() {
            return Err(agent.closed());
        }
        for bytes in output.chunks(piece) {
            if let Some(paired) = agent.receive(bytes)? {
                return Ok(paired);
            }
        }
    }
}

#[test]
fn the_right_code_pairs_whatever_the_pieces() {
    for piece in [1, 7, 5000] {
        let agent = Agent::new(&code("12345678"), &SESSION, request());
        let site = Site::new(&code("1234-5678"), &SESSION);
        assert_eq!(play(agent, site, &mut 0, piece).unwrap(), paired());
    }
}

#[test]
fn five_wrong_codes_are_told_with_what_is_left() {
    let mut wrong = 0;
    for left in [4, 3, 2, 1, 0] {
        let agent = Agent::new(&code("1234-5679"), &SESSION, request());
        let site = Site::new(&code("1234-5678"), &SESSION);
        match play(agent, site, &mut wrong, 4096) {
            Err(Error::CodeWrong { left: told }) if left > 0 => assert_eq!(told, left),
            Err(Error::Ended) if left == 0 => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_relay_with_two_tls_sessions_fails_though_the_code_is_right() {
    let agent = Agent::new(&code("1234-5678"), &[6; EXPORTER], request());
    let site = Site::new(&code("1234-5678"), &SESSION);
    let mut wrong = 0;
    assert!(matches!(
        play(agent, site, &mut wrong, 4096),
        Err(Error::CodeWrong { .. })
    ));
    assert_eq!(wrong, 1);
}

#[test]
fn an_impostor_who_confirms_anything_is_found_out_before_the_request_is_sent() {
    let mut agent = Agent::new(&code("1234-5678"), &SESSION, request());
    let mut impostor = Site::new(&code("0000-0000"), &SESSION);
    let hello = agent.output();
    assert_eq!(impostor.receive(&hello), Ok(None));
    agent.receive(&impostor.output()).unwrap();
    agent.output();
    let confirm = frame_of(&Reply::Confirmed([0; 32]));
    assert!(matches!(agent.receive(&confirm), Err(Error::Impostor)));
    assert!(agent.output().is_empty());
}

fn frame_of(reply: &Reply) -> Vec<u8> {
    crate::inbox::frame(&crate::inbox::encode(reply))
}

#[test]
fn a_closed_pairing_is_told() {
    let agent = Agent::new(&code("1234-5678"), &SESSION, request());
    assert!(matches!(agent.closed(), Error::Closed));
    let mut agent = Agent::new(&code("1234-5678"), &SESSION, request());
    let told = agent.receive(&frame_of(&Reply::Closed));
    assert!(matches!(told, Err(Error::Closed)));
}

#[test]
fn a_code_that_was_used_meanwhile_does_not_confirm() {
    let mut agent = Agent::new(&code("1234-5678"), &SESSION, request());
    let mut site = Site::new(&code("1234-5678"), &SESSION);
    site.receive(&agent.output()).unwrap();
    agent.receive(&site.output()).unwrap();
    let guess = site.receive(&agent.output()).unwrap();
    assert_eq!(guess, Some(Event::Guessed { right: true }));
    site.refuse(None);
    assert!(matches!(agent.receive(&site.output()), Err(Error::Closed)));
}

#[test]
fn a_wrong_guess_cannot_be_confirmed_by_mistake() {
    let mut agent = Agent::new(&code("1234-5679"), &SESSION, request());
    let mut site = Site::new(&code("1234-5678"), &SESSION);
    site.receive(&agent.output()).unwrap();
    agent.receive(&site.output()).unwrap();
    site.receive(&agent.output()).unwrap();
    site.confirm();
    assert!(site.output().is_empty());
}

#[test]
fn a_code_is_eight_digits() {
    assert_eq!(code(" 0012 3456 ").to_string(), "0012-3456");
    for text in ["", "1234567", "123456789", "1234-567a", "１２３４５６７８"] {
        assert!(text.parse::<Code>().is_err(), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]

    #[test]
    fn any_code_reads_back(random in any::<[u8; 16]>()) {
        let code = Code::from_random(random);
        prop_assert_eq!(code.to_string().parse::<Code>(), Ok(code));
    }

    /// One changed bit anywhere, in either direction: never paired, never a panic.
    #[test]
    fn a_changed_bit_never_pairs(at in 0usize..1700, bit in 0u8..8) {
        let mut agent = Agent::new(&code("1234-5678"), &SESSION, request());
        let mut site = Site::new(&code("1234-5678"), &SESSION);
        let mut position = 0;
        let mut flip = |bytes: &mut Vec<u8>| {
            if let Some(byte) = at.checked_sub(position).and_then(|at| bytes.get_mut(at)) {
                *byte ^= 1 << bit;
            }
            position += bytes.len();
        };
        let mut result = None;
        while result.is_none() {
            let mut bytes = agent.output();
            flip(&mut bytes);
            match site.receive(&bytes) {
                Ok(Some(Event::Guessed { right: true })) => site.confirm(),
                Ok(Some(Event::Guessed { right: false })) => site.refuse(Some(1)),
                Ok(Some(Event::Asked(_))) => site.pair(paired()),
                Ok(None) => {}
                Err(_) => break,
            }
            let mut bytes = site.output();
            flip(&mut bytes);
            if bytes.is_empty() { break }
            match agent.receive(&bytes) {
                Ok(paired) => result = paired,
                Err(_) => break,
            }
        }
        prop_assert!(result.is_none() || at >= position, "bit {bit} of byte {at} went unnoticed");
    }
}

/// One who knows the code sends anything; `at` says where in the exchange.
#[test]
fn no_bytes_make_either_half_panic() {
    bolero::check!()
        .with_type::<(u8, bool, u8, Vec<u8>)>()
        .for_each(|(at, framed, kind, bytes)| {
            let mut agent = Agent::new(&code("1234-5678"), &SESSION, request());
            let mut site = Site::new(&code("1234-5678"), &SESSION);
            let bytes = match framed {
                true => crate::inbox::frame(&message(*kind, 4, bytes)),
                false => bytes.clone(),
            };
            for _ in 0..at % 3 {
                match site.receive(&agent.output()) {
                    Ok(Some(Event::Guessed { .. })) => site.confirm(),
                    Ok(Some(Event::Asked(_))) => site.pair(paired()),
                    _ => {}
                }
                let _ = agent.receive(&site.output());
            }
            let _ = site.receive(&bytes);
            let told = agent.receive(&bytes);
            assert!(!matches!(told, Ok(Some(_))), "paired by nobody");
        });
}
