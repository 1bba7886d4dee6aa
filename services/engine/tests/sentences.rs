//! All that the engine has to say to an operator; a change of it is looked at.

use engine::Error;
use format::{DatastoreId, Digest, FormatError, SnapshotId};
use std::io;

#[test]
fn each_names_its_object_and_the_next_step() {
    let place = || "/srv/d".to_owned();
    let name = || "packs/00.pack".to_owned();
    let (datastore, found) = (DatastoreId([1; 16]), DatastoreId([2; 16]));
    let (id, digest) = (SnapshotId([3; 16]), Digest([4; 32]));
    let source = FormatError::Truncated { what: "pack" };
    let reason = || "it is damaged".to_owned();
    let all = [
        Error::NoDatastore { place: place() },
        Error::Headless { place: place() },
        Error::Occupied {
            place: place(),
            what: "a datastore".into(),
        },
        Error::Busy {
            place: place(),
            holder: "process 7".into(),
        },
        Error::Full { place: place() },
        Error::Io {
            action: "read",
            name: name(),
            place: place(),
            source: io::ErrorKind::Other.into(),
        },
        Error::Format {
            name: name(),
            source: source.clone(),
        },
        Error::Newer {
            name: name(),
            found: 2,
        },
        Error::Index {
            place: place(),
            reason: reason(),
        },
        Error::Locked { datastore },
        Error::WrongKeys { datastore },
        Error::NoChunk { digest },
        Error::NoSnapshot { id },
        Error::Conflict { id },
        Error::Foreign {
            name: name(),
            found,
            datastore,
        },
        Error::Incomplete {
            name: name(),
            missing: digest,
        },
        Error::Signer { id },
        Error::Sign { reason: reason() },
        Error::Entry {
            path: "a/b".into(),
            source,
        },
        Error::Content { digest },
        Error::Random,
        Error::Cancelled,
    ];
    insta::assert_snapshot!(all.map(|error| error.to_string()).join("\n"));
}
