//! All that this crate has to say to an operator; a change of it is looked at.

use tpm::Error;

#[test]
fn each_names_its_object_and_the_next_step() {
    let source = tss_esapi::Error::WrapperError(tss_esapi::WrapperErrorKind::InvalidParam);
    let all = [
        Error::Tcti("a chip".into()),
        Error::Absent {
            tcti: "device:/dev/tpmrm0".into(),
            source,
        },
        Error::NoPcr(25),
        Error::Unmeasured(vec![4, 7]),
        Error::PcrMoved(vec![7]),
        Error::OtherTpm,
        Error::Blob(source),
        Error::Lockout,
        Error::Refused {
            doing: "seal the key",
            source,
        },
    ];
    insta::assert_snapshot!(all.map(|error| error.to_string()).join("\n"));
}
