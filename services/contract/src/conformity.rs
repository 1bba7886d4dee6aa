//! The tie between the XML and a daemon: names, signatures, access and signals must agree.

use std::collections::BTreeSet;
use zbus_xml::{ArgDirection, Node, PropertyAccess};

/// Members of one interface, one normalised line each.
fn members(xml: &str, interface: &str) -> Result<BTreeSet<String>, String> {
    let node = Node::from_reader(xml.as_bytes()).map_err(|e| format!("unreadable XML: {e}"))?;
    let interface = node
        .interfaces()
        .iter()
        .find(|i| i.name().as_str() == interface)
        .ok_or_else(|| format!("no interface {interface}"))?
        .clone();
    let mut lines = BTreeSet::new();
    for method in interface.methods() {
        let of = |wanted: ArgDirection| {
            method
                .args()
                .iter()
                .filter(|a| a.direction().unwrap_or(ArgDirection::In) == wanted)
                .map(|a| a.ty().to_string())
                .collect::<Vec<_>>()
                .join(" ")
        };
        lines.insert(format!(
            "method {}({}) -> ({})",
            method.name(),
            of(ArgDirection::In),
            of(ArgDirection::Out)
        ));
    }
    for signal in interface.signals() {
        let args: Vec<_> = signal.args().iter().map(|a| a.ty().to_string()).collect();
        lines.insert(format!("signal {}({})", signal.name(), args.join(" ")));
    }
    for property in interface.properties() {
        let access = match property.access() {
            PropertyAccess::Read => "read",
            PropertyAccess::Write => "write",
            PropertyAccess::ReadWrite => "readwrite",
        };
        lines.insert(format!(
            "property {} {} {access}",
            property.name(),
            property.ty().to_string()
        ));
    }
    Ok(lines)
}

/// Compares a daemon's introspection with the contract; the error lists each difference.
pub fn check(introspection: &str, interface: &str) -> Result<(), String> {
    let (_, contract) = crate::INTERFACES
        .iter()
        .find(|(name, _)| *name == interface)
        .ok_or_else(|| format!("no contract for {interface}"))?;
    let wanted = members(contract, interface)?;
    let found = members(introspection, interface)?;
    let missing = wanted
        .difference(&found)
        .map(|m| format!("the daemon lacks: {m}"));
    let extra = found
        .difference(&wanted)
        .map(|m| format!("the XML lacks: {m}"));
    let differences: Vec<_> = missing.chain(extra).collect();
    if differences.is_empty() {
        Ok(())
    } else {
        Err(format!("{interface}: {}", differences.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_interface_parses_and_agrees_with_itself() {
        for (name, xml) in crate::INTERFACES {
            super::check(xml, name).unwrap();
        }
    }

    #[test]
    fn a_difference_is_told() {
        let (name, xml) = crate::INTERFACES[0];
        let other = xml.replace("name=\"Cancel\"", "name=\"Stop\"");
        let told = super::check(&other, name).unwrap_err();
        assert!(told.contains("lacks: method Cancel() -> ()"), "{told}");
        assert!(told.contains("lacks: method Stop() -> ()"), "{told}");
    }

    #[test]
    fn every_member_is_documented() {
        for (name, xml) in crate::INTERFACES {
            let mut documented = false;
            for line in xml.lines().map(str::trim) {
                if line.starts_with("<method")
                    || line.starts_with("<signal")
                    || line.starts_with("<property")
                {
                    assert!(documented, "{name}: no comment above {line}");
                }
                documented = line.ends_with("-->") || (documented && line.starts_with("<arg"));
            }
        }
    }
}
