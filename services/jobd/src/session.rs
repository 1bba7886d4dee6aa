//! The control session of one agent: messages to and from the protocol's state machine.

use crate::agents::{Agent, News, Order};
use crate::bus;
use crate::request::Request;
use crate::run::Core;
use protocol::WireError;
use protocol::control::{FromAgent, FromSite, KEEPALIVE, SILENCE, Site, SiteEvent};
use protocol::frame::aio;
use protocol::session::Open;
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

/// Messages under way between a session and a run.
const QUEUE: usize = 16;

/// Serves `stream` until either end goes.
pub(crate) async fn serve(core: Arc<Core>, id: String, stream: UnixStream) {
    let (orders, mut from_runs) = mpsc::channel(QUEUE);
    let agent = Agent { id, orders };
    let ended = talk(&core, &agent, stream, &mut from_runs).await;
    core.agents.detach(&agent);
    tell_connected(&core).await;
    match ended {
        Ok(()) => tracing::info!(agent = agent.id, "the agent has left"),
        Err(error) => tracing::warn!(agent = agent.id, "the agent's session ended: {error}"),
    }
}

async fn tell_connected(core: &Core) {
    if let Err(error) = bus::connected_changed(&core.daemon.bus).await {
        tracing::warn!("which agents are connected could not be told: {error}");
    }
}

async fn talk(
    core: &Arc<Core>,
    agent: &Agent,
    stream: UnixStream,
    from_runs: &mut mpsc::Receiver<Order>,
) -> Result<(), WireError> {
    let (read, mut write) = stream.into_split();
    let (messages, mut from_agent) = mpsc::channel(QUEUE);
    // reading is not cancel-safe, so it has a task of its own that ends with the stream
    tokio::spawn(read_all(read, messages));
    let mut site = Site::default();
    let mut news: Option<mpsc::Sender<News>> = None;
    let mut heard = Instant::now();
    let mut said = Instant::now();
    loop {
        // every branch is cancel-safe: channels and timers only
        let answer = tokio::select! {
            message = from_agent.recv() => {
                let Some(message) = message else { return Ok(()) };
                heard = Instant::now();
                let event = site.receive(message?)?;
                on_event(core, agent, &mut site, event, &mut news).await
            }
            order = from_runs.recv() => {
                let Some(order) = order else { return Ok(()) };
                on_order(&mut site, order, &mut news)
            }
            () = sleep_until(said + KEEPALIVE) => Some(FromSite::Ping),
            () = sleep_until(heard + SILENCE) => return Ok(()),
            () = core.daemon.shutdown.cancelled() => return Ok(()),
        };
        if let Some(answer) = answer {
            // one that does not read is as gone as one that does not speak
            let Ok(written) = timeout(SILENCE, aio::write(&mut write, &answer)).await else {
                return Ok(());
            };
            written?;
            said = Instant::now();
        }
    }
}

async fn read_all(mut read: OwnedReadHalf, messages: mpsc::Sender<Result<FromAgent, WireError>>) {
    // the first frame says what the session is for; portald has looked at it already
    let first: Result<Option<Open>, _> = aio::read(&mut read).await;
    if let Err(error) = first {
        let _ = messages.send(Err(error)).await;
        return;
    }
    while let Some(message) = aio::read(&mut read).await.transpose() {
        let last = message.is_err();
        if messages.send(message).await.is_err() || last {
            return;
        }
    }
}

async fn on_event(
    core: &Arc<Core>,
    agent: &Agent,
    site: &mut Site,
    event: SiteEvent,
    news: &mut Option<mpsc::Sender<News>>,
) -> Option<FromSite> {
    let message = match event {
        SiteEvent::Attached {
            hostname,
            version,
            serves,
        } => {
            tracing::info!(
                agent = agent.id,
                hostname,
                version,
                serves,
                "an agent is attached"
            );
            if serves {
                core.agents.attach(agent.clone());
                tell_connected(core).await;
            }
            return None;
        }
        SiteEvent::Request {
            definition,
            paths,
            excludes,
        } => {
            let request = Request {
                definition,
                paths: paths.into_iter().map(|p| p.0).collect(),
                excludes: excludes.into_iter().map(|p| p.0).collect(),
            };
            return match core.requested(agent, request).await {
                Ok(()) => None, // its order comes through the channel
                Err(error) => site.refuse(error.text()),
            };
        }
        SiteEvent::Alive => return None,
        SiteEvent::Progress(progress) => News::Progress(progress),
        SiteEvent::Finished(result) => News::Finished(result),
        SiteEvent::Cancel => News::Cancel,
    };
    if let Some(run) = news {
        // a run that does not listen any more has ended
        let _ = run.send(message).await;
    }
    None
}

fn on_order(
    site: &mut Site,
    order: Order,
    news: &mut Option<mpsc::Sender<News>>,
) -> Option<FromSite> {
    match order {
        Order::Start { backup, news: to } => {
            // when the agent is busy, `to` is dropped, which the run sees as the agent gone
            let start = site.start(backup)?;
            *news = Some(to);
            Some(start)
        }
        Order::Cancel => site.cancel(),
        Order::Update {
            stage,
            detail,
            done,
            total,
        } => site.update(stage, &detail, done, total),
        Order::Ended { succeeded, message } => {
            *news = None;
            site.ended(succeeded, &message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::control::{Agent as TheirEnd, Backup, Path};
    use protocol::session::Kind;

    #[tokio::test]
    async fn an_agent_that_does_not_read_is_given_up() {
        let appliance = runtime::testing::Appliance::new();
        let bus = appliance.connect().await;
        let daemon = runtime::Daemon::new("jobd", bus, Default::default());
        let state = crate::state::State::open(appliance.root.path()).unwrap();
        let core = Core::new(daemon, state);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        aio::write(&mut theirs, &Open::new(Kind::Control))
            .await
            .unwrap();
        let (_, hello) = TheirEnd::begin("host", "test", false);
        aio::write(&mut theirs, &hello).await.unwrap();
        let (orders, mut from_runs) = mpsc::channel(QUEUE);
        let agent = Agent {
            id: "a1".into(),
            orders,
        };
        // more than a socket holds
        let backup = Backup {
            run: "r".into(),
            definition: String::new(),
            paths: vec![Path(vec![b'/'; 4096]); 200],
            excludes: vec![],
        };
        tokio::time::pause();
        let order = async {
            // one that comes before the hello is dropped
            loop {
                let (news, mut from_session) = mpsc::channel(QUEUE);
                let backup = backup.clone();
                let start = Order::Start { backup, news };
                agent.orders.send(start).await.unwrap();
                assert!(from_session.recv().await.is_none(), "it tells nothing");
            }
        };
        tokio::select! {
            ended = talk(&core, &agent, ours, &mut from_runs) => ended.unwrap(),
            () = order => unreachable!("it goes on"),
            () = tokio::time::sleep(10 * SILENCE) => panic!("it waits on"),
        }
    }
}
