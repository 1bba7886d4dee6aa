//! Asking the daemons of a machine over its bus.

use qemu_tests::{Deadline, Error, Machine, Result};

/// A property of `org.strongroom.X1`, as busctl prints it without its type.
pub(crate) fn property(machine: &Machine, interface: &str, name: &str) -> Result<String> {
    let interface = format!("org.strongroom.{interface}");
    let path = format!("/{}", interface.replace('.', "/"));
    let answer = machine.check([
        "busctl",
        "get-property",
        &interface,
        &path,
        &interface,
        name,
    ])?;
    let value = answer.trim().split_once(' ').map_or("", |(_, value)| value);
    Ok(value.trim_matches('"').to_owned())
}

/// Asks again and again until the State of `org.strongroom.X1` is `wanted`.
pub(crate) fn until(machine: &Machine, interface: &str, wanted: &str, by: Deadline) -> Result<()> {
    loop {
        // a daemon that restarts is not there for a moment
        let state = property(machine, interface, "State").unwrap_or_else(|e| e.to_string());
        if state == wanted {
            return Ok(());
        }
        if by.left().is_none() {
            let reason = property(machine, interface, "Reason").unwrap_or_default();
            return Err(Error::Late {
                machine: machine.name().into(),
                what: format!("{interface} to be {wanted}; it is {state}: {reason}"),
                after: by.length(),
            });
        }
    }
}
