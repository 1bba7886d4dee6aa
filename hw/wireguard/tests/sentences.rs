//! All that this crate has to say to an operator; a change of it is looked at.

use nix::errno::Errno;
use wireguard::Error;

#[test]
fn each_names_its_object_and_the_next_step() {
    let doing = "giving the uplink its key";
    let all = [
        Error::NoWireGuard,
        Error::Foreign("sr0".into()),
        Error::Refused {
            doing,
            source: Errno::EPERM,
        },
        Error::Socket {
            doing,
            source: Errno::ETIMEDOUT,
        },
        Error::Answer("asking for WireGuard"),
    ];
    insta::assert_snapshot!(all.map(|error| error.to_string()).join("\n"));
}
