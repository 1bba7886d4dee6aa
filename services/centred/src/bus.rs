//! org.strongroom.Centre1 on the bus.

use crate::address;
use crate::centre::Centre;
use crate::{control, enrolment};
use contract::{Error, Fields, FieldsExt, field, fields};
use protocol::enrol::{Custody, CustodyError};
use protocol::token::{Endpoint, EndpointError, SECRET, Token};
use std::sync::Arc;
use zbus::message::Header;
use zbus::zvariant::OwnedFd;

/// Longest life of a token, hours.
const MAX_HOURS: u32 = 24 * 90;

pub(crate) struct Bus(Arc<Centre>);

impl Bus {
    pub(crate) fn new(centre: Arc<Centre>) -> Bus {
        Bus(centre)
    }
}

fn fresh_id() -> Result<String, Error> {
    Ok(data_encoding::HEXLOWER.encode(&runtime::random::<8>()?[..]))
}

#[zbus::interface(name = "org.strongroom.Centre1")]
impl Bus {
    #[zbus(out_args("tenant"))]
    async fn create_tenant(&self, name: String, options: Fields) -> Result<String, Error> {
        self.0.require_centre().await?;
        let custody = match options.optional::<String>("custody")? {
            Some(custody) => custody
                .parse()
                .map_err(|e: CustodyError| Error::InvalidArgument(e.to_string()))?,
            None => Custody::Msp,
        };
        let id = fresh_id()?;
        let mut book = self.0.book.lock().await;
        book.change(|book| book.create_tenant(id, &name, custody))
    }

    #[zbus(out_args("tenants"))]
    async fn tenants(&self) -> Result<Vec<Fields>, Error> {
        self.0.require_centre().await?;
        let book = self.0.book.lock().await;
        let sites = |id: &str| book.sites.values().filter(|s| s.tenant == id).count() as u32;
        let tenants = book.tenants.iter().map(|(id, tenant)| {
            fields([
                ("id", field(id.as_str())),
                ("name", field(tenant.name.as_str())),
                ("custody", field(tenant.custody.as_str())),
                ("sites", field(sites(id))),
            ])
        });
        Ok(tenants.collect())
    }

    #[zbus(out_args("token", "expires"))]
    async fn create_token(
        &self,
        tenant: String,
        site: String,
        options: Fields,
    ) -> Result<(String, i64), Error> {
        let membership = self.0.membership().await?;
        let hours = options.optional::<u32>("hours")?.unwrap_or(72);
        if !(1..=MAX_HOURS).contains(&hours) {
            return Err(Error::InvalidArgument(format!(
                "a token is good for 1 to {MAX_HOURS} hours, not {hours}"
            )));
        }
        let token = Token {
            endpoint: membership
                .endpoint
                .parse::<Endpoint>()
                .map_err(|e: EndpointError| Error::Failed(e.to_string()))?,
            fingerprint: membership.fingerprint.try_into().map_err(|_| {
                Error::Failed(
                    "the centre's fingerprint is not 12 bytes; look at enrold's journal".into(),
                )
            })?,
            secret: runtime::random::<SECRET>()?,
        };
        let (hash, id) = (enrolment::hash(&token.secret[..]), fresh_id()?);
        let when = runtime::now();
        let expires = when + i64::from(hours) * 3600;
        let mut book = self.0.book.lock().await;
        book.change(|book| book.create_token(hash, &tenant, id, &site, (when, expires)))?;
        Ok((token.to_string(), expires))
    }

    #[zbus(out_args("sites"))]
    async fn sites(&self) -> Result<Vec<Fields>, Error> {
        self.0.require_centre().await?;
        let ours = self.0.address().await.ok();
        let book = self.0.book.lock().await;
        let sites = book.sites.iter().map(|(id, site)| {
            let tenant = book.tenants.get(&site.tenant);
            let address = ours.map(|ours| address::site(ours, site.number).to_string());
            fields([
                ("id", field(id.as_str())),
                ("name", field(site.name.as_str())),
                ("tenant", field(site.tenant.as_str())),
                ("tenant_name", field(tenant.map_or("", |t| t.name.as_str()))),
                ("datastore", field(site.datastore.as_str())),
                ("address", field(address.unwrap_or_default())),
                ("enrolled", field(site.enrolled)),
                ("custody", field(site.custody.as_str())),
                ("identity", field(site.identity.to_vec())),
            ])
        });
        Ok(sites.collect())
    }

    async fn accept_enrolment(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        stream: OwnedFd,
        options: Fields,
    ) -> Result<(), Error> {
        runtime::caller::require(bus, &header, &["portald"]).await?;
        let from = options.optional("from")?.unwrap_or_default();
        let stream = runtime::pipe::adopt_stream(stream)?;
        tokio::spawn(enrolment::serve(self.0.clone(), stream, from));
        Ok(())
    }

    async fn accept_control(
        &self,
        #[zbus(connection)] bus: &zbus::Connection,
        #[zbus(header)] header: Header<'_>,
        stream: OwnedFd,
        options: Fields,
    ) -> Result<(), Error> {
        runtime::caller::require(bus, &header, &["portald"]).await?;
        self.0.require_centre().await?;
        let peer = options.required("peer")?;
        let stream = runtime::pipe::adopt_stream(stream)?;
        tokio::spawn(control::serve(self.0.clone(), stream, peer));
        Ok(())
    }
}
