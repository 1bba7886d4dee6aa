//! A site changes its custody. portald knows it by its certificate, and tells us its id.

use crate::centre::Centre;
use crate::enrolment;
use crate::exchange::{self, Exchange};
use contract::Error;
use protocol::enrol::Held;
use protocol::enrol::custody::{self, CentreEvent};
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
    while let Some(event) = exchange.next().await? {
        let answered = match event {
            CentreEvent::Asked => {
                let membership = centre.membership().await;
                membership.map(|membership| exchange.machine.wrap(membership.wrap))
            }
            CentreEvent::Held(held) => change(centre, peer, held)
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

async fn change(centre: &Centre, peer: &str, held: Held) -> Result<(), Error> {
    let tenant = {
        let book = centre.book.lock().await;
        let site = book.sites.get(peer).ok_or_else(|| {
            Error::NotAuthorised("this site is not on the centre's list (any more)".into())
        })?;
        if site.datastore != held.datastore {
            return Err(Error::NotAuthorised(format!(
                "the datastore {} is not this site's",
                held.datastore
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
