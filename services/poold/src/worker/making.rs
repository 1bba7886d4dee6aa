//! Create: making a pool, or going on with one.

use super::Worker;
use crate::bus::Request;
use crate::create;
use crate::name::PoolId;
use crate::plan::State;
use contract::{Error, Fields, field};

impl Worker {
    /// Makes a pool, or goes on making the one whose making was interrupted.
    pub(super) async fn create(&mut self, request: &Request) -> Result<Fields, Error> {
        let (view, verdict) = self
            .look()
            .await
            .map_err(|error| Error::Failed(contract::told(&error)))?;
        let tell = request.progress.clone();
        let (pool, array) = match verdict.pool {
            Some(pool) if verdict.unfinished => {
                let below = view.volumes.iter().find(|v| v.pool == pool);
                let array = view.arrays.iter().find(|(p, _)| *p == pool);
                let device = below
                    .map(|v| v.device.clone())
                    .or_else(|| array.map(|(_, a)| a.device.clone()));
                (pool, device)
            }
            Some(pool) => {
                let (here, wanted) = (
                    view.serials(&pool),
                    request.serials.iter().cloned().collect(),
                );
                if !request.serials.is_empty() && here != wanted {
                    return Err(Error::AlreadyExists(format!(
                        "this appliance has the pool {pool} already, of the disks {}; a second one is not made",
                        here.into_iter().collect::<Vec<_>>().join(", ")
                    )));
                }
                return self.until_mounted().await;
            }
            None => (
                PoolId::random().map_err(|_| {
                    Error::Failed(
                        "the kernel gives no random numbers; restart the appliance".into(),
                    )
                })?,
                None,
            ),
        };
        let key = self.key(&pool, true).await?;
        let disks = match &array {
            Some(_) => Vec::new(),
            None => create::choose(&view.disks, &request.serials)?,
        };
        tell.set_detail("making the pool");
        self.blocking(move |machine| {
            let device = match array {
                Some(device) => device,
                None => {
                    create::confirm_blank(machine, &disks)?;
                    create::make_array(machine, &pool, &disks)?
                }
            };
            create::make_volume(machine, &pool, &device, &key, |what| tell.set_detail(what))
        })
        .await?;
        self.trouble = None;
        request.progress.set_detail("mounting the pool");
        self.until_mounted().await
    }

    /// Takes the steps that are left; answers what Create's job does.
    async fn until_mounted(&mut self) -> Result<Fields, Error> {
        self.settle()
            .await
            .map_err(|error| Error::Failed(format!("{error:#}")))?;
        let published = self.published.read().expect("no panic holds it").clone();
        match published.state {
            State::Mounted | State::Degraded => Ok(Fields::from([
                ("pool".to_owned(), field(published.pool)),
                ("level".to_owned(), field(published.level)),
                ("size".to_owned(), field(published.size)),
            ])),
            state => Err(Error::NotReady(format!(
                "the pool is {}: {}",
                state.word(),
                published.reason
            ))),
        }
    }
}
