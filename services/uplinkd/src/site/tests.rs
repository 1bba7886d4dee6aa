use super::*;
use proptest::prelude::*;

fn seen(now: u64, wall: i64, handshake: Option<i64>) -> Seen {
    Seen {
        now: Duration::from_secs(now),
        wall,
        handshake,
    }
}

fn address(n: u8) -> SocketAddr {
    ([192, 0, 2, n], 51820).into()
}

/// Does what is asked, with a world where all goes well, until it waits.
fn settle(site: &mut Site, seen: &Seen) -> Vec<Step> {
    let mut steps = Vec::new();
    loop {
        let step = site.step(seen);
        steps.push(step.clone());
        match step {
            Step::SyncClock => site.done(seen.now, Outcome::Synced(Ok(()))),
            Step::Resolve => site.done(
                seen.now,
                Outcome::Resolved(Ok(vec![address(1), address(2)])),
            ),
            Step::Raise(_) => site.done(seen.now, Outcome::Raised(Ok(()))),
            Step::Wait(_) => return steps,
        }
    }
}

fn whole(n: u8) -> Vec<Step> {
    vec![
        Step::SyncClock,
        Step::Resolve,
        Step::Raise(address(n)),
        Step::Wait(LOOK),
    ]
}

#[test]
fn clock_then_name_then_tunnel() {
    let mut site = Site::new("c:1");
    assert_eq!(settle(&mut site, &seen(100, 1_000_000, None)), whole(1));
    assert!(matches!(site.state(), State::Connecting(_)));
    assert_eq!(
        settle(&mut site, &seen(105, 1_000_005, Some(1_000_004))),
        [Step::Wait(LOOK)]
    );
    assert_eq!(site.state(), State::Up);
}

#[test]
fn without_a_handshake_all_is_tried_again_at_the_next_address() {
    let mut site = Site::new("c:1");
    settle(&mut site, &seen(100, 1_000_000, None));
    assert_eq!(
        settle(&mut site, &seen(114, 1_000_014, None)),
        [Step::Wait(Duration::from_secs(1))]
    );
    assert_eq!(settle(&mut site, &seen(115, 1_000_015, None)), whole(2));
    // and then more slowly
    assert_eq!(settle(&mut site, &seen(144, 1_000_044, None)).len(), 1);
    assert_eq!(settle(&mut site, &seen(145, 1_000_045, None)), whole(1));
}

#[test]
fn a_handshake_that_ages_starts_it_over_at_once() {
    let mut site = Site::new("c:1");
    settle(&mut site, &seen(100, 1_000_000, None));
    settle(&mut site, &seen(105, 1_000_005, Some(1_000_004)));
    assert_eq!(
        settle(&mut site, &seen(284, 1_000_184, Some(1_000_004))),
        [Step::Wait(LOOK)]
    );
    assert_eq!(
        settle(&mut site, &seen(286, 1_000_186, Some(1_000_004))),
        whole(2)
    );
    assert!(matches!(site.state(), State::Connecting(_)));
}

#[test]
fn a_clock_that_jumps_is_set_at_once() {
    const YEAR: i64 = 365 * 86_400;
    for jump in [-YEAR, YEAR, -60] {
        let mut site = Site::new("c:1");
        settle(&mut site, &seen(100, 50_000_000, None));
        settle(&mut site, &seen(105, 50_000_005, Some(50_000_004)));
        assert_eq!(
            site.step(&seen(110, 50_000_010 + jump, Some(50_000_004))),
            Step::SyncClock,
            "{jump}"
        );
        // setting it back is no jump
        site.done(Duration::from_secs(111), Outcome::Synced(Ok(())));
        assert_eq!(
            site.step(&seen(111, 50_000_011, Some(50_000_004))),
            Step::Resolve
        );
    }
}

#[test]
fn what_fails_is_told_and_does_not_stop_the_rest() {
    let mut site = Site::new("c:1");
    let at = seen(100, 1_000_000, None);
    assert_eq!(site.step(&at), Step::SyncClock);
    site.done(at.now, Outcome::Synced(Err("no portal".into())));
    assert_eq!(site.step(&at), Step::Resolve);
    site.done(at.now, Outcome::Resolved(Err("no such name".into())));
    assert_eq!(
        site.state(),
        State::Connecting("no such name; no portal".into())
    );
    assert!(matches!(site.step(&at), Step::Wait(_)));
    assert_eq!(site.step(&seen(115, 1_000_015, None)), Step::SyncClock);
    site.done(at.now, Outcome::Synced(Ok(())));
    site.done(at.now, Outcome::Resolved(Ok(vec![address(1)])));
    site.done(at.now, Outcome::Raised(Err("no WireGuard".into())));
    assert_eq!(site.state(), State::Failed("no WireGuard".into()));
}

proptest! {
    /// Whatever happens, it neither spins nor gives up: the tunnel is raised only after the clock
    /// was asked for in the same round, and a silent peer is retried for ever.
    #[test]
    fn it_never_spins_and_never_gives_up(
        events in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), -400_000i64..400_000, 0u64..300), 1..60),
    ) {
        let mut site = Site::new("c:1");
        let (mut now, mut wall) = (0u64, 10_000_000i64);
        let mut last: Option<i64> = None;
        for (sync, resolve, handshake, jump, pause) in events {
            let (mut synced, mut steps) = (false, 0);
            loop {
                steps += 1;
                prop_assert!(steps < 8);
                let at = Duration::from_secs(now);
                match site.step(&seen(now, wall, last)) {
                    Step::SyncClock => {
                        synced = true;
                        site.done(at, Outcome::Synced(if sync { Ok(()) } else { Err("x".into()) }));
                    }
                    Step::Resolve => {
                        let answer = if resolve { Ok(vec![address(1)]) } else { Err("y".into()) };
                        site.done(at, Outcome::Resolved(answer));
                    }
                    Step::Raise(_) => {
                        prop_assert!(synced);
                        site.done(at, Outcome::Raised(Ok(())));
                    }
                    Step::Wait(time) => {
                        prop_assert!(time > Duration::ZERO && time <= LOOK);
                        break;
                    }
                }
            }
            if handshake {
                last = Some(wall);
            }
            now += pause;
            wall += pause as i64 + if pause % 7 == 0 { jump } else { 0 };
        }
        // a peer that stays silent is asked again within the longest grace
        now += 2 * LONGEST_GRACE.as_secs() + STALE as u64;
        wall += 2 * LONGEST_GRACE.as_secs() as i64 + STALE;
        prop_assert_eq!(site.step(&seen(now, wall, None)), Step::SyncClock);
    }
}
