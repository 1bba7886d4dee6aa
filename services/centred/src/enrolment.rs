//! A site joins: what we answer it, and what we keep.

use crate::address;
use crate::book::Token;
use crate::centre::Centre;
use crate::exchange::{self, Exchange};
use contract::{Error, Options};
use protocol::enrol::{
    self, CentreEvent, Custody, Grant, Held, HeldKey, Hello, Offer, Reason, Refusal,
};
use std::sync::Arc;
use tokio::net::UnixStream;
use x509_parser::prelude::{FromDer, X509Certificate};
use zbus::zvariant::Value;

/// A site that has shown a good token.
struct Candidate {
    hash: String,
    hello: Hello,
    token: Token,
    custody: Custody,
}

pub(crate) async fn serve(centre: Arc<Centre>, stream: UnixStream, from: String) {
    let exchange = Exchange::new(stream, enrol::Centre::default());
    if let Err(why) = exchange::within(converse(&centre, exchange, &from)).await {
        tracing::info!(from, "an enrolment ended early: {why}");
    }
}

async fn converse(
    centre: &Centre,
    mut exchange: Exchange<enrol::Centre>,
    from: &str,
) -> Result<(), String> {
    let mut candidate = None;
    while let Some(event) = exchange.next().await? {
        let machine = &mut exchange.machine;
        match (event, &candidate) {
            (CentreEvent::Asked(hello), _) => match ask(centre, hello).await {
                Ok((asked, offer)) => {
                    candidate = Some(asked);
                    machine.offer(offer);
                }
                Err(refusal) => {
                    tracing::warn!(from, "refused to enrol a site: {}", refusal.sentence);
                    machine.refuse(refusal);
                }
            },
            (CentreEvent::Held(held), Some(candidate)) => {
                match grant(centre, candidate, held).await {
                    Ok(grant) => machine.grant(grant),
                    Err(error) => {
                        let sentence = error.text();
                        tracing::warn!(from, "could not enrol a site: {sentence}");
                        machine.refuse(Refusal {
                            reason: Reason::Other,
                            sentence,
                        });
                    }
                }
            }
            (CentreEvent::Done, Some(candidate)) => {
                spend(centre, candidate).await;
                return Ok(());
            }
            (_, None) => return Err("it went on without an offer".into()),
        }
    }
    Ok(())
}

/// What the ledger keeps of a secret: enough to know it again. It is random, so nothing slower
/// than a hash is needed.
pub(crate) fn hash(secret: &[u8]) -> String {
    blake3::hash(secret).to_hex().to_string()
}

async fn ask(centre: &Centre, hello: Hello) -> Result<(Candidate, Offer), Refusal> {
    let other = |error: Error| Refusal {
        reason: Reason::Other,
        sentence: error.text(),
    };
    let hash = hash(&hello.secret[..]);
    // the token first: a stranger learns nothing of how this centre is
    let (token, tenant) = {
        let mut book = centre.book.lock().await;
        let mut refused = None;
        let token = book
            .change(|book| {
                book.present(&hash, hello.identity, runtime::now())
                    .map_err(|refusal| {
                        refused = Some(refusal);
                        Error::NotAuthorised(String::new())
                    })
            })
            .map_err(|error| refused.unwrap_or_else(|| other(error)))?;
        let (_, tenant) = book.tenant(&token.tenant).map_err(other)?;
        (token, tenant.clone())
    };
    centre.require_centre().await.map_err(other)?;
    let fleet = async { centre.keys().await?.authority("fleet").await };
    let fleet = fleet.await.map_err(other)?;
    // a restart of ours must not find a site that holds nothing here under another custody
    let custody = {
        let book = centre.book.lock().await;
        let enrolled = book.sites.get(&token.site);
        enrolled.map_or(tenant.custody, |site| site.custody)
    };
    let offer = Offer {
        tenant: token.tenant.clone(),
        tenant_name: tenant.name,
        site: token.site.clone(),
        site_name: token.site_name.clone(),
        custody,
        fleet,
    };
    let candidate = Candidate {
        hash,
        hello,
        token,
        custody,
    };
    Ok((candidate, offer))
}

async fn grant(centre: &Centre, candidate: &Candidate, held: Held) -> Result<Grant, Error> {
    let token = &candidate.token;
    if held.key.custody() != candidate.custody {
        return Err(Error::InvalidArgument(format!(
            "the site sent keys for {} custody, its tenant's is {}; enrol again",
            held.key.custody().as_str(),
            candidate.custody.as_str()
        )));
    }
    let membership = centre.membership().await?;
    let ours = centre.address().await?;
    let keys = centre.keys().await?;
    let chain = keys
        .issue_site(&token.tenant, &token.site, &candidate.hello.csr)
        .await?;
    let leaf = chain.first().map(Vec::as_slice).unwrap_or_default();
    if public_key(leaf) != Some(candidate.hello.identity.to_vec()) {
        return Err(Error::NotAuthorised(
            "the certificate request is for another key than the identity it came with; enrol \
             again, and if that fails too, set this machine up anew"
                .into(),
        ));
    }
    let peer = keys.uplink_public_key().await?;
    let peer = peer.try_into().map_err(|_| {
        Error::Damaged("the centre's uplink key is not 32 bytes; look at its keyd's journal".into())
    })?;
    centre
        .book
        .lock()
        .await
        .owner_of(&held.datastore, &token.site)?;
    hold(centre, &token.tenant, &held).await?;
    let number = {
        let mut book = centre.book.lock().await;
        book.change(|book| {
            let custody = held.key.custody();
            book.enrol(
                token,
                &held.datastore,
                custody,
                candidate.hello.uplink,
                runtime::now(),
            )
            .map(|site| site.number)
        })?
    };
    centre.peers_changed();
    tracing::info!(site = token.site, name = token.site_name, "enrolled");
    Ok(Grant {
        chain,
        address: format!("{}/{}", address::site(ours, number), address::PREFIX),
        centre: ours.to_string(),
        peer,
        uplink_port: membership.uplink_port,
    })
}

/// Gives keyd what it is to hold for a tenant's datastore.
pub(crate) async fn hold(centre: &Centre, tenant: &str, held: &Held) -> Result<(), Error> {
    let (name, key) = match &held.key {
        HeldKey::Msp(wrapped) => ("wrapped", wrapped.as_slice()),
        HeldKey::Client(share) => ("share", share.as_slice()),
    };
    let fields = Options::from([
        ("custody", Value::from(held.key.custody().as_str())),
        ("datastore", Value::from(held.datastore.as_str())),
        ("keyset", Value::from(held.keyset.as_slice())),
        (name, Value::from(key)),
    ]);
    centre.keys().await?.hold_custody(tenant, fields).await
}

async fn spend(centre: &Centre, candidate: &Candidate) {
    let mut book = centre.book.lock().await;
    let spent = book.change(|book| {
        book.spend(&candidate.hash);
        Ok::<(), Error>(())
    });
    if let Err(error) = spent {
        // it stays bound to this one identity, so nothing is open
        tracing::warn!("a used token could not be marked as such: {}", error.text());
    }
}

fn public_key(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.public_key().subject_public_key.data.to_vec())
}
