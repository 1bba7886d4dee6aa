//! Tenants, sites and tokens: what centred knows, and every rule about it. No I/O, no clock.

use contract::Error;
use protocol::enrol::{Custody, Reason, Refusal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Tokens that can enrol nobody any more are remembered so long, seconds, so that who tries one is
/// told why.
const REMEMBERED: i64 = 90 * 86_400;

/// All of it, as the ledger keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Book {
    pub(crate) tenants: BTreeMap<String, Tenant>,
    pub(crate) sites: BTreeMap<String, Site>,
    /// By BLAKE3 of the secret, hexadecimal.
    tokens: BTreeMap<String, Token>,
    /// How many numbers of addresses were given out. None is given out twice.
    numbers: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tenant {
    pub(crate) name: String,
    /// Of its next sites; and of its last, when that changed it.
    pub(crate) custody: Custody,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) tenant: String,
    pub(crate) datastore: String,
    pub(crate) custody: Custody,
    /// Of its address in the tunnel.
    pub(crate) number: u32,
    /// Seconds since 1970.
    pub(crate) enrolled: i64,
    pub(crate) identity: [u8; 32],
    pub(crate) uplink: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Token {
    pub(crate) tenant: String,
    pub(crate) site: String,
    pub(crate) site_name: String,
    /// Seconds since 1970.
    expires: i64,
    bound: Option<Bound>,
    /// Its site keeps its grant.
    spent: bool,
}

/// Who used a token first, and with what address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bound {
    identity: [u8; 32],
    number: u32,
}

impl Book {
    /// Adds a tenant under `id`, or finds the one that is so already. Answers its id.
    pub(crate) fn create_tenant(
        &mut self,
        id: String,
        name: &str,
        custody: Custody,
    ) -> Result<String, Error> {
        require_name(name, "tenant")?;
        if let Some((id, tenant)) = self.tenants.iter().find(|(_, t)| t.name == name) {
            if tenant.custody == custody {
                return Ok(id.clone());
            }
            return Err(Error::AlreadyExists(format!(
                "the tenant {name} exists, under {} custody; a site of it changes that with \
                 strongroom custody",
                tenant.custody.as_str()
            )));
        }
        let name = name.to_owned();
        self.tenants.insert(id.clone(), Tenant { name, custody });
        Ok(id)
    }

    /// A tenant by id or name; its id comes first.
    pub(crate) fn tenant(&self, which: &str) -> Result<(&String, &Tenant), Error> {
        self.tenants
            .get_key_value(which)
            .or_else(|| self.tenants.iter().find(|(_, t)| t.name == which))
            .ok_or_else(|| {
                Error::NotFound(format!(
                    "there is no tenant {which}; strongroom centre tenants lists them"
                ))
            })
    }

    /// Keeps a token for a new site; an earlier one for the same site ends. `hash` is BLAKE3 of
    /// its secret, `site` a fresh id.
    pub(crate) fn create_token(
        &mut self,
        hash: String,
        tenant: &str,
        site: String,
        site_name: &str,
        (now, expires): (i64, i64),
    ) -> Result<(), Error> {
        require_name(site_name, "site")?;
        let (tenant, details) = self.tenant(tenant)?;
        let tenant = tenant.clone();
        let here = |s: &&Site| s.tenant == tenant && s.name == site_name;
        if self.sites.values().any(|s| here(&s)) {
            return Err(Error::AlreadyExists(format!(
                "{} has a site {site_name} already; give the new one another name",
                details.name
            )));
        }
        self.tokens.retain(|_, old| {
            let over = old.spent || (old.bound.is_none() && old.expires <= now);
            let replaced = !old.spent && old.tenant == tenant && old.site_name == site_name;
            let forgotten = over && old.expires + REMEMBERED <= now;
            !(replaced || forgotten)
        });
        let token = Token {
            tenant,
            site,
            site_name: site_name.to_owned(),
            expires,
            bound: None,
            spent: false,
        };
        self.tokens.insert(hash, token);
        Ok(())
    }

    /// A site has shown the secret of this hash. Binds the token to it, or finds it bound so.
    pub(crate) fn present(
        &mut self,
        hash: &str,
        identity: [u8; 32],
        now: i64,
    ) -> Result<Token, Refusal> {
        let refuse = |reason, sentence: &str| {
            let sentence = sentence.to_owned();
            Err(Refusal { reason, sentence })
        };
        let Some(token) = self.tokens.get_mut(hash) else {
            return refuse(
                Reason::Unknown,
                "the centre does not know this token: it was replaced by a newer one, or is of \
                 another centre; ask for a new token there",
            );
        };
        match &token.bound {
            _ if token.spent => {
                return refuse(
                    Reason::Used,
                    "the token has been used, its site is enrolled; ask the centre for a new token",
                );
            }
            Some(bound) if bound.identity == identity => {}
            Some(_) => {
                return refuse(
                    Reason::Used,
                    "another machine has begun to enrol with this token; if that was none of \
                     yours, tell the centre at once, and ask it for a new token",
                );
            }
            None if token.expires <= now => {
                return refuse(
                    Reason::Expired,
                    "the token has expired; ask the centre for a new token",
                );
            }
            None => {
                if self.sites.values().any(|site| site.identity == identity) {
                    return refuse(
                        Reason::Other,
                        "this machine is enrolled at the centre already under another token; go on \
                         with that one, or set the machine up anew, which gives it new keys",
                    );
                }
                let number = crate::address::FIRST + self.numbers;
                self.numbers += 1;
                token.bound = Some(Bound { identity, number });
            }
        }
        Ok(token.clone())
    }

    /// The site of a presented token has given what the centre holds; from now on it is one.
    pub(crate) fn enrol(
        &mut self,
        token: &Token,
        datastore: &str,
        custody: Custody,
        uplink: [u8; 32],
        now: i64,
    ) -> Result<&Site, Error> {
        let bound = token.bound.as_ref().ok_or_else(|| {
            Error::Failed("a token was to enrol a site that has not presented it".into())
        })?;
        self.owner_of(datastore, &token.site)?;
        let site = Site {
            name: token.site_name.clone(),
            tenant: token.tenant.clone(),
            datastore: datastore.to_owned(),
            custody,
            number: bound.number,
            enrolled: now,
            identity: bound.identity,
            uplink,
        };
        self.sites.insert(token.site.clone(), site);
        Ok(&self.sites[&token.site])
    }

    /// Refuses a datastore that is another site's.
    pub(crate) fn owner_of(&self, datastore: &str, site: &str) -> Result<(), Error> {
        let other = |(id, s): (&String, &Site)| s.datastore == datastore && id != site;
        if self.sites.iter().any(other) {
            return Err(Error::NotAuthorised(format!(
                "the datastore {datastore} is of another site; set this machine up anew, which \
                 gives it one of its own"
            )));
        }
        Ok(())
    }

    /// The site of this token keeps its grant: the token has done its work.
    pub(crate) fn spend(&mut self, hash: &str) {
        if let Some(token) = self.tokens.get_mut(hash) {
            token.spent = true;
        }
    }

    /// The site's custody is now this.
    pub(crate) fn set_custody(&mut self, site: &str, custody: Custody) {
        if let Some(site) = self.sites.get_mut(site) {
            site.custody = custody;
            if let Some(tenant) = self.tenants.get_mut(&site.tenant) {
                tenant.custody = custody;
            }
        }
    }
}

/// Refuses what cannot be shown as a name.
fn require_name(name: &str, what: &str) -> Result<(), Error> {
    let fits = (1..=64).contains(&name.chars().count()) && name.trim() == name;
    if fits && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "the name of a {what} has 1 to 64 characters and no space at either end"
    )))
}

#[cfg(test)]
mod tests;
