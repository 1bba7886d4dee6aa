//! A site changes its custody. portald knows it by its certificate, and tells us its id.

use crate::centre::Centre;
use crate::enrolment;
use crate::exchange::{self, Exchange};
use contract::Error;
use protocol::enrol::custody::{self, CentreEvent, Signed};
use ring::signature::{ED25519, UnparsedPublicKey};
use std::sync::Arc;
use tokio::net::UnixStream;

pub(crate) async fn serve(centre: Arc<Centre>, stream: UnixStream, peer: String) {
    let exchange = Exchange::new(stream, custody::Centre::default());
    if let Err(why) = exchange::within(converse(&centre, exchange, &peer)).await {
        tracing::info!(site = peer, "a control session ended early: {why}");
    }
}

async fn converse(
    centre: &Centre,
    mut exchange: Exchange<custody::Centre>,
    peer: &str,
) -> Result<(), String> {
    let mut nonce = [0; 32];
    // the machine lets nothing be held before the nonce was sent
    while let Some(event) = exchange.next().await? {
        let answered = match event {
            CentreEvent::Asked => runtime::random().map(|fresh| {
                nonce = *fresh;
                exchange.machine.challenge(nonce);
            }),
            CentreEvent::Held(signed) => change(centre, peer, &nonce, signed)
                .await
                .map(|()| exchange.machine.kept()),
        };
        if let Err(error) = answered {
            let sentence = error.text();
            tracing::warn!(site = peer, "custody stays as it was: {sentence}");
            exchange.machine.refuse(sentence);
        }
    }
    Ok(())
}

async fn change(
    centre: &Centre,
    peer: &str,
    nonce: &[u8; 32],
    Signed { held, signature }: Signed,
) -> Result<(), Error> {
    let tenant = {
        let book = centre.book.lock().await;
        let site = book.sites.get(peer).ok_or_else(|| {
            Error::NotAuthorised(
                "the centre has no such site; compare strongroom centre sites there with \
                 strongroom status here"
                    .into(),
            )
        })?;
        UnparsedPublicKey::new(&ED25519, &site.identity)
            .verify(&custody::signed(nonce, &held), &signature)
            .map_err(|_| {
                Error::NotAuthorised(
                    "the site's signature does not fit, and the centre holds what it held; try \
                     again, and if that fails too, set the site up anew: its identity is not \
                     the one that was enrolled"
                        .into(),
                )
            })?;
        if site.datastore != held.datastore {
            return Err(Error::NotAuthorised(format!(
                "the datastore {} is not this site's, which is {}; compare strongroom centre \
                 sites there with strongroom status here",
                held.datastore, site.datastore
            )));
        }
        site.tenant.clone()
    };
    enrolment::hold(centre, &tenant, &held).await?;
    let custody = held.key.custody();
    centre.book.lock().await.change(|book| {
        book.set_custody(peer, custody);
        Ok::<(), Error>(())
    })?;
    tracing::warn!(
        site = peer,
        tenant,
        custody = custody.as_str(),
        "custody changed"
    );
    Ok(())
}
