//! One job at a time changes what this appliance is.

use crate::house::House;
use crate::state::{Founding, Keeper, Site, State};
use crate::steps::{self, Outcome};
use contract::{Error, Fields, field};
use protocol::enrol::Custody;
use protocol::token::Token;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::sync::Mutex;
use zbus::zvariant::OwnedObjectPath;

pub(crate) struct Desk {
    daemon: runtime::Daemon,
    keeper: Mutex<Keeper>,
    house: House,
    running: Mutex<Option<(Work, OwnedObjectPath)>>,
    /// Whether there is such a job. zbus reads a property under the lock of all its objects, which
    /// a new job needs too: a property that waited for `running` would end both for ever.
    busy: AtomicBool,
}

/// What a job is to do; asked for the same while it runs, the same job is answered.
#[derive(Clone, PartialEq)]
pub(crate) enum Work {
    Enrol(Token),
    /// From a grant, without the token.
    Settle,
    Found(Founding),
    Custody(Custody),
}

impl Desk {
    pub(crate) fn new(daemon: runtime::Daemon, keeper: Keeper, house: House) -> Arc<Desk> {
        Arc::new(Desk {
            daemon,
            keeper: Mutex::new(keeper),
            house,
            running: Mutex::new(None),
            busy: AtomicBool::new(false),
        })
    }

    pub(crate) async fn state(&self) -> State {
        self.keeper.lock().await.state().clone()
    }

    /// "unenrolled", "enrolling", "site" or "centre".
    pub(crate) async fn state_name(&self) -> &'static str {
        let busy = self.busy.load(Relaxed);
        self.keeper.lock().await.state().name(busy)
    }

    /// Starts a job for `work`, or answers the one that does just this.
    pub(crate) async fn start(self: &Arc<Self>, work: Work) -> Result<OwnedObjectPath, Error> {
        let mut running = self.running.lock().await;
        if let Some((same, job)) = running.as_ref() {
            // what a restart began without its token is the same work
            let same = *same == work
                || matches!((same, &work), (Work::Settle, Work::Enrol(token))
                    if steps::may_enrol(&self.state().await, token).is_ok());
            if same {
                return Ok(job.clone());
            }
            return Err(Error::NotReady(
                "this appliance is being set up already; wait for that to end (strongroom status)"
                    .into(),
            ));
        }
        let kind = match &work {
            Work::Enrol(_) | Work::Settle => "enrol",
            Work::Found(_) => "centre-init",
            Work::Custody(_) => "custody",
        };
        let (desk, task) = (self.clone(), work.clone());
        let job = self
            .daemon
            .jobs
            .start(kind, move |progress, cancel| async move {
                desk.house.watched(progress);
                let result = tokio::select! {
                    result = desk.run(task) => result,
                    // dropped between two steps: as after a crash, it is gone on from
                    () = cancel.cancelled() => Err(Error::Cancelled(
                        "stopped on request; the same command goes on from here".into(),
                    )),
                };
                {
                    let mut running = desk.running.lock().await;
                    *running = None;
                    desk.busy.store(false, Relaxed);
                }
                desk.changed().await;
                result
            })
            .await?;
        *running = Some((work, job.clone()));
        self.busy.store(true, Relaxed);
        drop(running);
        self.changed().await;
        Ok(job)
    }

    /// Goes on with what a restart interrupted, when that needs no operator.
    pub(crate) async fn resume(self: &Arc<Self>) {
        let work = match self.state().await {
            State::Granted(_) => Work::Settle,
            State::Founding(founding) => Work::Found(founding),
            State::Site(Site {
                due: Some(custody), ..
            }) => {
                tracing::warn!(
                    "a change to {0} custody was interrupted, or its shares were never shown; \
                     repeat it: strongroom custody {0}",
                    custody.as_str()
                );
                return;
            }
            _ => return,
        };
        if let Err(error) = self.start(work).await {
            tracing::error!("cannot go on being set up: {}", error.text());
        }
    }

    fn run(self: &Arc<Self>, work: Work) -> impl Future<Output = Result<Fields, Error>> + Send {
        let desk = self.clone();
        async move {
            let (keeper, house) = (&desk.keeper, &desk.house);
            match work {
                Work::Enrol(token) => steps::enrol(keeper, house, &token).await.map(told),
                Work::Settle => {
                    let State::Granted(granted) = desk.state().await else {
                        return Ok(Fields::new());
                    };
                    let site = steps::settle(keeper, house, granted).await?;
                    Ok(told(Outcome { site, shares: None }))
                }
                Work::Found(founding) => {
                    let centre = steps::found(keeper, house, founding).await?;
                    let fingerprint = field(centre.fingerprint.to_vec());
                    Ok(Fields::from([("fingerprint".to_owned(), fingerprint)]))
                }
                Work::Custody(custody) => {
                    steps::set_custody(keeper, house, custody).await.map(told)
                }
            }
        }
    }

    async fn changed(&self) {
        crate::bus::changed(&self.daemon.bus).await;
    }
}

fn told(Outcome { site, shares }: Outcome) -> Fields {
    let mut fields = Fields::from([
        ("tenant_name".to_owned(), field(site.tenant_name)),
        ("site_name".to_owned(), field(site.site_name)),
        ("datastore".to_owned(), field(site.datastore)),
        ("custody".to_owned(), field(site.custody.as_str())),
    ]);
    if let Some(shares) = shares {
        fields.insert("client_share".to_owned(), field(shares.client.as_str()));
        fields.insert("envelope_share".to_owned(), field(shares.envelope.as_str()));
    }
    fields
}
