//! The steps, each kept before the next begins, so that a crash anywhere is gone on from.

use crate::state::{Centre, Founding, Granted, Keeper, Site, State};
use crate::world::{Shares, Uplink, World};
use contract::Error;
use protocol::enrol::Custody;
use protocol::token::{Endpoint, Token, fingerprint};
use tokio::sync::Mutex;

/// What an enrolment gives the operator.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) site: Site,
    pub(crate) shares: Option<Shares>,
}

/// What tells one token from another without keeping it.
pub(crate) fn token_hash(token: &Token) -> String {
    blake3::hash(token.to_string().as_bytes())
        .to_hex()
        .to_string()
}

/// Whether a token may be used in this state.
pub(crate) fn may_enrol(state: &State, token: &Token) -> Result<(), Error> {
    let site = match state {
        State::Unenrolled => return Ok(()),
        State::Granted(granted) => &granted.site,
        State::Site(site) => site,
        State::Founding(_) | State::Centre(_) => return Err(is_a_centre()),
    };
    if site.token == token_hash(token) {
        return Ok(());
    }
    Err(Error::AlreadyExists(format!(
        "this appliance is the site {} of {} already; a new token is for another appliance, or for \
         this one set up anew",
        site.site_name, site.tenant_name
    )))
}

fn is_a_centre() -> Error {
    Error::WrongRole("this appliance is a centre; a site is another appliance".into())
}

/// Becomes a site, from wherever it stands.
pub(crate) async fn enrol<W: World>(
    keeper: &Mutex<Keeper>,
    world: &W,
    token: &Token,
) -> Result<Outcome, Error> {
    let state = keeper.lock().await.state().clone();
    may_enrol(&state, token)?;
    match state {
        State::Unenrolled => {
            world.tell("looking at the keys of this machine");
            world.check_keys().await?;
            world.tell("setting the clock by the centre's");
            world.sync_clock(token).await?;
            world.tell("asking the centre to be taken");
            let (joined, waiting) = world.join(token).await?;
            let granted = Granted {
                site: Site {
                    token: token_hash(token),
                    tenant: joined.offer.tenant,
                    tenant_name: joined.offer.tenant_name,
                    site: joined.offer.site,
                    site_name: joined.offer.site_name,
                    endpoint: token.endpoint.to_string(),
                    fingerprint: token.fingerprint,
                    datastore: joined.datastore,
                    custody: joined.offer.custody,
                    due: joined.shares.is_some().then_some(joined.offer.custody),
                },
                grant: joined.grant,
                fleet: joined.offer.fleet,
            };
            keeper.lock().await.set(State::Granted(granted.clone()))?;
            world.confirm(waiting).await;
            let site = settle(keeper, world, granted).await?;
            seen(keeper, site, joined.shares).await
        }
        State::Granted(granted) => {
            let site = settle(keeper, world, granted).await?;
            again(keeper, world, site).await
        }
        State::Site(site) => again(keeper, world, site).await,
        State::Founding(_) | State::Centre(_) => Err(is_a_centre()),
    }
}

/// From the grant to a working site: needs no token any more.
pub(crate) async fn settle<W: World>(
    keeper: &Mutex<Keeper>,
    world: &W,
    Granted { site, grant, fleet }: Granted,
) -> Result<Site, Error> {
    world.tell("keeping the centre's grant");
    world.complete(&grant, &fleet).await?;
    world.tell("configuring the uplink");
    let portal: Endpoint = site.endpoint.parse().map_err(|_| {
        Error::Damaged("the centre's endpoint kept here is none; set this appliance up anew".into())
    })?;
    let uplink = Uplink::Site {
        address: grant.address.clone(),
        peer: grant.peer,
        endpoint: Endpoint {
            host: portal.host,
            port: grant.uplink_port,
        }
        .to_string(),
        centre: grant.centre.clone(),
        time: site.endpoint.clone(),
        fingerprint: site.fingerprint.to_vec(),
    };
    world.uplink(&uplink).await?;
    world.tell("making the pool");
    world.pool().await?;
    keeper.lock().await.set(State::Site(site.clone()))?;
    Ok(site)
}

/// For one who repeats the token. Shares that nobody has seen are lost, and made anew.
async fn again<W: World>(keeper: &Mutex<Keeper>, world: &W, site: Site) -> Result<Outcome, Error> {
    match site.due {
        Some(custody) => change(keeper, world, site, custody).await,
        None => Ok(Outcome { site, shares: None }),
    }
}

/// Keeps that the shares go to the operator now.
async fn seen(
    keeper: &Mutex<Keeper>,
    mut site: Site,
    shares: Option<Shares>,
) -> Result<Outcome, Error> {
    site.due = None;
    keeper.lock().await.set(State::Site(site.clone()))?;
    Ok(Outcome { site, shares })
}

/// Changes the custody of a site.
pub(crate) async fn set_custody<W: World>(
    keeper: &Mutex<Keeper>,
    world: &W,
    custody: Custody,
) -> Result<Outcome, Error> {
    let site = require_site(keeper.lock().await.state())?.clone();
    change(keeper, world, site, custody).await
}

async fn change<W: World>(
    keeper: &Mutex<Keeper>,
    world: &W,
    mut site: Site,
    custody: Custody,
) -> Result<Outcome, Error> {
    world.tell("making a new tenant key and having the centre hold its part");
    site.due = Some(custody);
    keeper.lock().await.set(State::Site(site.clone()))?;
    let shares = world
        .change_custody(&site.tenant, custody, &site.fingerprint)
        .await?;
    site.custody = custody;
    seen(keeper, site, shares).await
}

/// The site this is.
pub(crate) fn require_site(state: &State) -> Result<&Site, Error> {
    match state {
        State::Site(site) => Ok(site),
        State::Founding(_) | State::Centre(_) => Err(Error::WrongRole(
            "this appliance is a centre; custody is changed at a site".into(),
        )),
        State::Unenrolled | State::Granted(_) => Err(Error::NotReady(
            "this appliance is not enrolled yet; use strongroom enrol".into(),
        )),
    }
}

/// Whether this may become the centre that is asked for. Answers what is to be kept first, with
/// `wanted`'s address only when it is new.
pub(crate) fn may_found(state: &State, wanted: Founding) -> Result<Founding, Error> {
    let before = match state {
        State::Unenrolled => return Ok(wanted),
        State::Founding(founding) => founding,
        State::Centre(centre) => &centre.founding,
        State::Granted(_) | State::Site(_) => {
            return Err(Error::WrongRole(
                "this appliance is a site; a centre is made of another one".into(),
            ));
        }
    };
    let same = Founding {
        address: before.address.clone(),
        ..wanted
    };
    if same == *before {
        return Ok(same);
    }
    Err(Error::AlreadyExists(format!(
        "this appliance is the centre {} at {} already; make another centre of another appliance",
        before.name, before.endpoint
    )))
}

/// Becomes a centre, from wherever it stands.
pub(crate) async fn found<W: World>(
    keeper: &Mutex<Keeper>,
    world: &W,
    wanted: Founding,
) -> Result<Centre, Error> {
    let state = keeper.lock().await.state().clone();
    let founding = may_found(&state, wanted)?;
    match state {
        State::Centre(centre) => return Ok(centre),
        State::Unenrolled => {
            world.tell("looking at the keys of this machine");
            world.check_keys().await?;
            // the random network is kept before anyone hears of it
            keeper.lock().await.set(State::Founding(founding.clone()))?;
        }
        _ => {}
    }
    world.tell("making the centre's keys");
    let fleet = world.found(&founding.name).await?;
    world.tell("configuring the uplink");
    let uplink = Uplink::Centre {
        address: founding.address.clone(),
        port: founding.uplink_port,
    };
    world.uplink(&uplink).await?;
    world.tell("making the pool");
    world.pool().await?;
    let centre = Centre {
        founding,
        fingerprint: fingerprint(&fleet),
    };
    keeper.lock().await.set(State::Centre(centre.clone()))?;
    Ok(centre)
}

#[cfg(test)]
mod tests;
