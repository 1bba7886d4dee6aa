//! org.strongroom.Portal1 on the bus.

use crate::desk::Recovery;
use crate::dial;
use crate::identity::Purpose;
use crate::portal::{Portal, Role};
use contract::{Error, Fields, FieldsExt, Options};
use protocol::pairing::Code;
use protocol::token::{Endpoint, FINGERPRINT};
use ring::rand::SecureRandom;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zbus::message::Header;
use zbus::zvariant::{OwnedFd, Value};
use zeroize::Zeroizing;

pub(crate) struct Bus(Arc<Portal>);

impl Bus {
    pub(crate) fn new(portal: Arc<Portal>) -> Bus {
        Bus(portal)
    }

    fn recovery(&self, options: &Fields) -> Result<Option<Recovery>, Error> {
        let datastore: Option<String> = options.optional("datastore")?;
        let share: Option<String> = options.optional("share")?;
        let share = share.map(Zeroizing::new);
        let hours = within(options.optional("hours")?, 24, 24 * 30, "hours")?;
        match (self.0.role(), datastore) {
            (Role::None, _) => Err(Error::NotReady(
                "this appliance is not enrolled; enrol it first (strongroom enrol)".into(),
            )),
            (Role::Site, None) if share.is_none() => Ok(None),
            (Role::Site, _) => Err(Error::WrongRole(
                "datastore and share are for recovery at a centre; a site's pairing takes neither"
                    .into(),
            )),
            (Role::Centre, None) => Err(Error::InvalidArgument(
                "at a centre a pairing is for recovery: name the datastore to restore from \
                 (strongroom centre sites lists them)"
                    .into(),
            )),
            (Role::Centre, Some(datastore)) => Ok(Some(Recovery {
                datastore,
                share,
                hours,
            })),
        }
    }
}

fn within(value: Option<u32>, default: u32, most: u32, what: &str) -> Result<u32, Error> {
    let value = value.unwrap_or(default);
    if (1..=most).contains(&value) {
        return Ok(value);
    }
    Err(Error::InvalidArgument(format!(
        "{value} {what} are not possible; give 1 to {most}"
    )))
}

/// Tells the bus that the listeners changed.
pub(crate) async fn listening_changed(bus: &zbus::Connection) {
    let server = bus.object_server();
    // before the object is there, nobody could have read an earlier value
    if let Ok(object) = server.interface::<_, Bus>("/org/strongroom/Portal1").await {
        // one at a time: of two doors that open at once, the later signal has to say both
        let portal = object.get_mut().await;
        let _ = portal.listening_changed(object.signal_emitter()).await;
    }
}

#[zbus::interface(name = "org.strongroom.Portal1")]
impl Bus {
    #[zbus(property)]
    fn listening(&self) -> Vec<String> {
        let listening = self.0.listening.lock().expect("no panic holds it");
        listening.values().map(ToString::to_string).collect()
    }

    #[zbus(out_args("code", "expires"))]
    async fn open_pairing(&self, options: Fields) -> Result<(String, i64), Error> {
        let minutes = within(options.optional("minutes")?, 15, 24 * 60, "minutes")?;
        let recovery = self.recovery(&options)?;
        if let Some(recovery) = &recovery {
            // who opens it learns now what the agent would be refused later
            let mut options = Options::from([("reason", Value::from("a recovery pairing opens"))]);
            if let Some(share) = &recovery.share {
                options.insert("share", Value::from(share.as_str()));
            }
            let keys = self.0.keys().await?;
            keys.try_release(&recovery.datastore, options).await?;
        }
        let mut random = Zeroizing::new([0; 16]);
        ring::rand::SystemRandom::new()
            .fill(&mut random[..])
            .map_err(|_| Error::Failed("the system gives no random bytes".into()))?;
        let code = Code::from_random(*random);
        let life = Duration::from_secs(u64::from(minutes) * 60);
        self.0.desk.open(code.clone(), life, recovery);
        tracing::info!("pairing is open for {minutes} minutes");
        let ends = (SystemTime::now() + life).duration_since(UNIX_EPOCH);
        Ok((code.to_string(), ends.map_or(0, |e| e.as_secs() as i64)))
    }

    async fn dial(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        purpose: String,
        options: Fields,
    ) -> Result<OwnedFd, Error> {
        runtime::caller::require(bus, &header, &["enrold", "engined", "uplinkd"]).await?;
        let purpose = match purpose.as_str() {
            "enrol" => Purpose::Enrol,
            "time" => Purpose::Time,
            "replicate" => Purpose::Site,
            "control" => Purpose::Control,
            other => {
                return Err(Error::InvalidArgument(format!(
                    "there is no purpose \"{other}\"; it is \"enrol\", \"time\", \"replicate\" or \
                     \"control\""
                )));
            }
        };
        if matches!(purpose, Purpose::Site | Purpose::Control) {
            return dial::tunnel(&self.0, purpose).await;
        }
        let endpoint: Endpoint = options
            .required::<String>("endpoint")?
            .parse()
            .map_err(|e: protocol::token::EndpointError| Error::InvalidArgument(e.to_string()))?;
        let fingerprint: [u8; FINGERPRINT] = options
            .required::<Vec<u8>>("fingerprint")?
            .try_into()
            .map_err(|_| {
                Error::InvalidArgument(format!("a fingerprint has {FINGERPRINT} bytes"))
            })?;
        dial::pinned(&self.0, purpose, &endpoint, fingerprint).await
    }
}
