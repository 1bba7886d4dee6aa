//! Who calls: the bus daemon's own word on the sender's user, held against the user a role runs as.
//!
//! The bus policy refuses strangers first; this check stands where a key or the right to write
//! depends on it. A role's user is `strongroom-<role>` unless `callers.toml` says otherwise.

use contract::Error;
use std::collections::HashMap;
use zbus::message::Header;

/// Passes when the sender runs as the user of one of `roles` (daemon names).
pub async fn require(
    connection: &zbus::Connection,
    header: &Header<'_>,
    roles: &[&str],
) -> Result<(), Error> {
    let member = header.member().map(|m| m.to_string()).unwrap_or_default();
    let refusal = |who: &str| {
        Error::NotAuthorised(format!(
            "{member} is for {}; {who} may not call it",
            roles.join(" or ")
        ))
    };
    let sender = header
        .sender()
        .ok_or_else(|| refusal("a nameless caller"))?;
    let bus = zbus::fdo::DBusProxy::new(connection).await?;
    let uid = bus
        .get_connection_unix_user(sender.to_owned().into())
        .await
        .map_err(|_| refusal("a caller that has left the bus"))?;
    let names: HashMap<String, String> =
        crate::config::load("callers").map_err(|e| Error::Failed(e.to_string()))?;
    for role in roles {
        let name = names
            .get(*role)
            .cloned()
            .unwrap_or_else(|| format!("strongroom-{role}"));
        let user = nix::unistd::User::from_name(&name).ok().flatten();
        if user.is_some_and(|user| user.uid.as_raw() == uid) {
            return Ok(());
        }
    }
    tracing::warn!(uid, %member, "refused a caller");
    Err(refusal(&format!("user {uid}")))
}
