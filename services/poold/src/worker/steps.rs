//! How each step of the plan is done.

use super::Worker;
use crate::create::{self, Key};
use crate::name::PoolId;
use crate::plan::Action;
use crate::view::MAPPING;
use contract::{Error, KeysProxy};
use disks::{Machine, folder, luks, md, mount};
use zbus::zvariant::Value;

impl Worker {
    pub(super) async fn perform(
        &mut self,
        action: &Action,
        pool: Option<&PoolId>,
    ) -> Result<(), Error> {
        let place = self.settings.mount_point.clone();
        let unit = self.settings.mount_unit.clone();
        let owner = self.settings.owner.clone();
        match action.clone() {
            Action::Open { device, pool } => {
                let key = match self.key(&pool, false).await {
                    Err(Error::NotFound(_)) => {
                        self.memory.keyless.insert(pool);
                        return Ok(());
                    }
                    key => key?,
                };
                self.blocking(move |machine| {
                    luks::open(machine, &device, MAPPING, &key)
                        .map_err(|error| Error::Failed(contract::told(&error)))
                })
                .await
            }
            Action::Mount => {
                let pool = pool.map(PoolId::to_string).unwrap_or_default();
                self.blocking(move |machine| {
                    mount::start(machine, &unit).map_err(|error| {
                        Error::Failed(format!(
                            "the pool {pool} is open and cannot be mounted ({}); see `strongroom log`",
                            contract::told(&error)
                        ))
                    })?;
                    if !mount::is_mounted(machine, &place).map_err(create::told)? {
                        return Err(Error::Failed(format!(
                            "{unit} stands and nothing is mounted at {place}; see that the unit and poold.toml name one place"
                        )));
                    }
                    folder::make(machine, &format!("{place}/datastores"), &owner)
                        .map_err(create::told)
                })
                .await
            }
            action => {
                self.blocking(move |machine| step(machine, &action).map_err(create::told))
                    .await
            }
        }
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Machine) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let machine = self.machine.clone();
        tokio::task::spawn_blocking(move || work(&*machine))
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// The pool's key, from keyd.
    pub(super) async fn key(&self, pool: &PoolId, make: bool) -> Result<Key, Error> {
        let keys = KeysProxy::new(&self.daemon.bus).await?;
        let options = [("create", Value::from(make))].into();
        let pipe = match keys.pool_key(pool.as_str(), options).await {
            Err(Error::ZBus(error)) => {
                return Err(Error::NotReady(format!(
                    "keyd does not answer ({error}); the pool opens by itself once it does"
                )));
            }
            answer => answer?,
        };
        tokio::task::spawn_blocking(move || {
            let bytes = runtime::pipe::take_key(pipe)?;
            let mut key = Key::new([0; luks::KEY_LEN]);
            if bytes.len() != key.len() {
                return Err(Error::Failed(
                    "keyd gave a pool key of another length".into(),
                ));
            }
            key.copy_from_slice(&bytes);
            Ok(key)
        })
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

fn step(machine: &dyn Machine, action: &Action) -> Result<(), disks::Error> {
    match action {
        Action::Stop { array } => md::stop(machine, array),
        Action::Assemble {
            uuid,
            disks,
            degraded,
        } => {
            let node = md::free_node(machine)?;
            let disks: Vec<_> = disks.iter().map(String::as_str).collect();
            md::assemble(machine, &node, uuid, &disks, *degraded)
        }
        Action::DropDetached { array } => md::drop_detached(machine, array),
        Action::Add { array, disk } => md::add(machine, array, disk),
        Action::Open { .. } | Action::Mount => Ok(()),
    }
}
