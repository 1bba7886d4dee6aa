//! org.strongroom.Enrol1 on the bus.

use crate::desk::{Desk, Work};
use crate::state::{Founding, State};
use crate::steps;
use contract::{Error, Fields, FieldsExt, field, fields};
use protocol::enrol::{Custody, CustodyError};
use protocol::token::{Endpoint, EndpointError, Token, TokenError};
use std::net::Ipv6Addr;
use std::sync::Arc;
use zbus::zvariant::OwnedObjectPath;
use zeroize::Zeroizing;

/// WireGuard's usual UDP port.
const UPLINK_PORT: u16 = 51820;

pub(crate) struct Bus(Arc<Desk>);

impl Bus {
    pub(crate) fn new(desk: Arc<Desk>) -> Bus {
        Bus(desk)
    }
}

/// Tells the bus that State or Membership may have changed.
pub(crate) async fn changed(bus: &zbus::Connection) {
    let server = bus.object_server();
    if let Ok(object) = server.interface::<_, Bus>("/org/strongroom/Enrol1").await {
        let (enrol, emitter) = (object.get().await, object.signal_emitter());
        let told = async {
            enrol.membership_changed(emitter).await?;
            enrol.state_changed(emitter).await
        };
        if let Err(error) = told.await {
            tracing::warn!("the bus was not told of a change: {error}");
        }
    }
}

/// A network of our own out of fd00::/8 (RFC 4193: 40 random bits), and 1 in it.
fn random_address() -> Result<String, Error> {
    let mut bytes = [0; 16];
    bytes[1..6].copy_from_slice(&runtime::random::<5>()?[..]);
    (bytes[0], bytes[15]) = (0xfd, 1);
    Ok(format!("{}/48", Ipv6Addr::from(bytes)))
}

#[zbus::interface(name = "org.strongroom.Enrol1")]
impl Bus {
    #[zbus(property)]
    async fn state(&self) -> String {
        self.0.state_name().await.to_owned()
    }

    #[zbus(property)]
    async fn membership(&self) -> Fields {
        match self.0.state().await {
            State::Site(site) => fields([
                ("tenant", field(site.tenant)),
                ("tenant_name", field(site.tenant_name)),
                ("site", field(site.site)),
                ("site_name", field(site.site_name)),
                ("endpoint", field(site.endpoint)),
                ("fingerprint", field(site.fingerprint.to_vec())),
                ("datastore", field(site.datastore)),
                ("custody", field(site.custody.as_str())),
            ]),
            State::Centre(centre) => fields([
                ("name", field(centre.founding.name)),
                ("endpoint", field(centre.founding.endpoint)),
                ("fingerprint", field(centre.fingerprint.to_vec())),
                ("uplink_port", field(centre.founding.uplink_port)),
            ]),
            _ => Fields::new(),
        }
    }

    #[zbus(out_args("job"))]
    async fn enrol(&self, token: String, _options: Fields) -> Result<OwnedObjectPath, Error> {
        let token: Token = Zeroizing::new(token)
            .parse()
            .map_err(|e: TokenError| Error::TokenInvalid(e.to_string()))?;
        steps::may_enrol(&self.0.state().await, &token)?;
        self.0.start(Work::Enrol(token)).await
    }

    #[zbus(out_args("job"))]
    async fn init_centre(
        &self,
        name: String,
        endpoint: String,
        options: Fields,
    ) -> Result<OwnedObjectPath, Error> {
        let endpoint: Endpoint = endpoint
            .parse()
            .map_err(|e: EndpointError| Error::InvalidArgument(e.to_string()))?;
        let fits = (1..=64).contains(&name.chars().count());
        if !fits || name.chars().any(char::is_control) {
            return Err(Error::InvalidArgument(
                "the name of a centre has 1 to 64 characters".into(),
            ));
        }
        let uplink_port = options.optional("uplink_port")?.unwrap_or(UPLINK_PORT);
        let wanted = Founding {
            name,
            endpoint: endpoint.to_string(),
            address: random_address()?,
            uplink_port,
        };
        let founding = steps::may_found(&self.0.state().await, wanted)?;
        self.0.start(Work::Found(founding)).await
    }

    #[zbus(out_args("job"))]
    async fn set_custody(
        &self,
        custody: String,
        _options: Fields,
    ) -> Result<OwnedObjectPath, Error> {
        let custody: Custody = custody
            .parse()
            .map_err(|e: CustodyError| Error::InvalidArgument(e.to_string()))?;
        steps::require_site(&self.0.state().await)?;
        self.0.start(Work::Custody(custody)).await
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_centres_network_is_its_own() {
        let one = super::random_address().unwrap();
        assert!(one.starts_with("fd") && one.ends_with("::1/48"), "{one}");
        assert_ne!(one, super::random_address().unwrap());
    }
}
