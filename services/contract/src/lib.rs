//! The D-Bus contract: the XML, the proxies made from it, value types, error names.
//!
//! `dbus/*.xml` is written first and documents every member. zbus cannot read it, so a test in
//! each daemon compares the daemon's introspection with it: [`conformity::check`].

pub mod conformity;
mod error;
mod fields;
mod proxies;

pub use error::{Error, told};
pub use fields::{FieldsExt, field, fields};
pub use proxies::*;

/// The XML of each interface, by interface name.
pub const INTERFACES: &[(&str, &str)] = &[
    (
        "org.strongroom.Job1",
        include_str!("../dbus/org.strongroom.Job1.xml"),
    ),
    (
        "org.strongroom.Keys1",
        include_str!("../dbus/org.strongroom.Keys1.xml"),
    ),
    (
        "org.strongroom.Pool1",
        include_str!("../dbus/org.strongroom.Pool1.xml"),
    ),
    (
        "org.strongroom.Engine1",
        include_str!("../dbus/org.strongroom.Engine1.xml"),
    ),
    (
        "org.strongroom.Jobs1",
        include_str!("../dbus/org.strongroom.Jobs1.xml"),
    ),
    (
        "org.strongroom.Uplink1",
        include_str!("../dbus/org.strongroom.Uplink1.xml"),
    ),
    (
        "org.strongroom.Enrol1",
        include_str!("../dbus/org.strongroom.Enrol1.xml"),
    ),
    (
        "org.strongroom.Portal1",
        include_str!("../dbus/org.strongroom.Portal1.xml"),
    ),
    (
        "org.strongroom.Centre1",
        include_str!("../dbus/org.strongroom.Centre1.xml"),
    ),
];
