//! Who may call what. The bus policy (image/common/dbus-1/org.strongroom.Keys1.conf) says the
//! same; a test compares them.

use contract::Error;
use zbus::message::Header;

/// Members that are for some daemons only; the others are for all of ours, and for root.
pub(crate) const CALLERS: &[(&str, &[&str])] = &[
    ("PoolKey", &["poold"]),
    ("UplinkKey", &["uplinkd"]),
    ("DatastoreKeyset", &["engined"]),
    ("Sign", &["engined", "enrold"]),
    ("ServerCertificate", &["portald"]),
    ("SiteIdentity", &["portald"]),
    ("IssueAgent", &["portald"]),
    ("PrepareEnrolment", &["enrold"]),
    ("MakeTenantKey", &["enrold"]),
    ("CompleteEnrolment", &["enrold"]),
    ("InitCentre", &["enrold"]),
    ("IssueSite", &["centred"]),
    ("HoldCustody", &["centred"]),
    ("ReleaseKeyset", &["engined"]),
    ("TryRelease", &["portald"]),
];

/// Refuses the call unless it comes from a daemon it is for.
pub(crate) async fn require(bus: &zbus::Connection, header: &Header<'_>) -> Result<(), Error> {
    let member = header.member().map(|m| m.as_str()).unwrap_or_default();
    match CALLERS.iter().find(|(name, _)| *name == member) {
        Some((_, roles)) => runtime::caller::require(bus, header, roles).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::CALLERS;
    use std::collections::BTreeSet;

    const POLICY: &str = include_str!("../../../image/common/dbus-1/org.strongroom.Keys1.conf");

    /// "user member" of each allow of one member in the policy file.
    fn allowed() -> BTreeSet<(String, String)> {
        let attribute = |line: &str, name: &str| {
            let rest = line.split(&format!("{name}=\"")).nth(1)?;
            Some(rest.split('"').next()?.to_owned())
        };
        let mut user = String::new();
        let mut found = BTreeSet::new();
        for line in POLICY.replace("\n           ", " ").lines().map(str::trim) {
            if line.starts_with("<policy") {
                user = attribute(line, "user").unwrap_or_default();
            }
            if line.starts_with("<allow")
                && let Some(member) = attribute(line, "send_member")
            {
                found.insert((user.clone(), member));
            }
        }
        found
    }

    #[test]
    fn the_bus_policy_says_the_same() {
        let wanted: BTreeSet<_> = CALLERS
            .iter()
            .flat_map(|(member, roles)| {
                roles
                    .iter()
                    .map(|role| (format!("strongroom-{role}"), (*member).to_owned()))
            })
            .collect();
        let guarded: BTreeSet<_> = CALLERS.iter().map(|(member, _)| *member).collect();
        let found: BTreeSet<_> = allowed()
            .into_iter()
            .filter(|(_, member)| guarded.contains(member.as_str()))
            .collect();
        assert_eq!(found, wanted);
    }

    /// Methods the XML describes.
    fn contract() -> BTreeSet<String> {
        let (_, xml) = contract::INTERFACES
            .iter()
            .find(|(name, _)| *name == "org.strongroom.Keys1")
            .unwrap();
        xml.split("<method name=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn every_guarded_member_is_in_the_contract() {
        let contract = contract();
        for (member, _) in CALLERS {
            assert!(contract.contains(*member), "{member}");
        }
    }

    #[test]
    fn what_is_not_guarded_is_open_to_all_of_ours_and_to_nobody_else() {
        let allowed = allowed();
        let users: BTreeSet<_> = allowed.iter().map(|(user, _)| user.clone()).collect();
        assert!(users.contains("root") && users.len() == 8, "{users:?}");
        for member in contract() {
            if CALLERS.iter().all(|(name, _)| *name != member) {
                for user in &users {
                    let pair = (user.clone(), member.clone());
                    assert!(allowed.contains(&pair), "{user} may not call {member}");
                }
            }
        }
    }
}
