use super::*;
use protocol::control::Progress as Told;

fn run() -> Run {
    Run {
        id: "r".into(),
        definition: "nightly".into(),
        agent: "a1".into(),
        started: 0,
        ended: 0,
        state: Outcome::Running,
        snapshot: String::new(),
        stages: Vec::new(),
    }
}

/// One that talks on instead.
#[tokio::test(start_paused = true)]
async fn an_agent_told_to_stop_has_a_minute_and_no_more() {
    let (orders, mut session) = mpsc::channel(16);
    let talk = tokio::spawn(async move {
        let Some(Order::Start { news, .. }) = session.recv().await else {
            panic!("an order first")
        };
        for _ in 0..10 * PATIENCE.as_secs() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if news.send(News::Progress(Told::default())).await.is_err() {
                break;
            }
        }
    });
    let agent = Agent {
        id: "a1".into(),
        orders,
    };
    let definition = Definition {
        agent: "a1".into(),
        paths: vec![b"/".to_vec()],
        excludes: vec![],
        offsite: false,
    };
    let cancel = CancellationToken::new();
    cancel.cancel();
    let begun = Instant::now();
    let ended = back_up(&agent, &run(), &definition, &Progress::default(), &cancel).await;
    assert!(matches!(ended, Err(Error::Cancelled(_))), "{ended:?}");
    assert_eq!(begun.elapsed(), PATIENCE);
    talk.await.unwrap();
}

#[tokio::test]
async fn a_run_that_panics_has_failed_and_the_next_one_begins() {
    let appliance = runtime::testing::Appliance::new();
    let bus = appliance.connect().await;
    let daemon = runtime::Daemon::new("jobd", bus.clone(), CancellationToken::new());
    let state = State::open(appliance.root.path()).unwrap();
    let core = Core::new(daemon, state);
    let service = bus.unique_name().unwrap().to_string();
    let client = appliance.connect().await;
    let cancel = CancellationToken::new();
    let mut jobs = Vec::new();
    for _ in 0..2 {
        let kept = core.clone();
        let work = |run: Run, _, _| async move {
            kept.keep(&run).await;
            panic!("a fault of ours")
        };
        let job = core.start("nightly", "a1".into(), work).await.unwrap();
        let end = runtime::job::wait(&client, &service, &job, &cancel, |_| {}).await;
        assert!(matches!(end, Err(Error::Failed(_))), "{end:?}");
        assert_eq!(core.state.runs(1)[0].state, Outcome::Failed);
        jobs.push(job);
    }
    assert_ne!(jobs[0], jobs[1]);
}
