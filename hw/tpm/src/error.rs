use tss_esapi::constants::response_code::Tss2ResponseCodeKind;

/// Why the TPM did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TCTI string is not one.
    #[error("\"{0}\" names no TPM; write device:/dev/tpmrm0")]
    Tcti(String),
    /// Nothing answers there.
    #[error(
        "no TPM 2.0 answers at {tcti}; enable it in the firmware setup (often called PTT or fTPM)"
    )]
    Absent {
        /// Where it was looked for.
        tcti: String,
        /// What the TPM library said.
        source: tss_esapi::Error,
    },
    /// A PCR asked for does not exist in the SHA-256 bank.
    #[error(
        "the TPM has no PCR {0} in its SHA-256 bank; switch that bank on in the firmware setup"
    )]
    NoPcr(u8),
    /// All PCRs of the policy are zero, and the policy wants them measured.
    #[error("{} zero: the firmware measured nothing, so a key sealed now would open under any software; enable TPM measurements in the firmware setup", verb(.0))]
    Unmeasured(Vec<u8>),
    /// The PCRs are not as they were at sealing.
    #[error("{} not what it was when the key was sealed; undo the last change and restart", verb(.0))]
    PcrMoved(Vec<u8>),
    /// Another TPM sealed it, or this one was cleared since.
    #[error(
        "the key was sealed by another TPM, or this one was cleared since; put the mainboard back that belongs to these disks"
    )]
    OtherTpm,
    /// The blob does not load or its policy does not fit, though TPM and PCRs do.
    #[error("the sealed key is damaged and nothing repairs it; set this machine up anew")]
    Blob(#[source] tss_esapi::Error),
    /// Too many wrong authorisations; the TPM waits.
    #[error(
        "the TPM is locked against guessing; leave the machine on for a day, or reset the lock with the TPM's owner password"
    )]
    Lockout,
    /// Anything else the TPM answered.
    #[error(
        "the TPM could not {doing}; restart the machine, and if it stays so, update the TPM's firmware"
    )]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// What the TPM library said.
        source: tss_esapi::Error,
    },
}

/// What a PCR measures, by the Linux TPM PCR registry (UAPI group).
fn meaning(pcr: u8) -> &'static str {
    match pcr {
        0 => "the firmware's code",
        1 => "the firmware's settings",
        2 => "option cards' firmware",
        3 => "option cards' settings",
        4 => "the boot loader",
        5 => "the partition table",
        7 => "Secure Boot: its state and keys",
        11 => "the system image",
        12 => "the kernel command line",
        14 => "the shim's keys",
        15 => "what the running system added",
        _ => "nothing agreed upon",
    }
}

fn verb(pcrs: &[u8]) -> String {
    let named: Vec<_> = pcrs
        .iter()
        .map(|p| format!("PCR {p} ({})", meaning(*p)))
        .collect();
    let verb = if pcrs.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", named.join(" and "))
}

pub(crate) fn kind(error: &tss_esapi::Error) -> Option<Tss2ResponseCodeKind> {
    match error {
        tss_esapi::Error::Tss2Error(code) => code.kind(),
        tss_esapi::Error::WrapperError(_) => None,
    }
}

/// For `map_err`: what was being done, or the lockout.
pub(crate) fn refused(doing: &'static str) -> impl Fn(tss_esapi::Error) -> Error {
    move |source| match kind(&source) {
        Some(Tss2ResponseCodeKind::Lockout) => Error::Lockout,
        _ => Error::Refused { doing, source },
    }
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn texts_name_the_object_and_the_next_step() {
        let text = Error::PcrMoved(vec![7]).to_string();
        assert_eq!(
            text,
            "PCR 7 (Secure Boot: its state and keys) is not what it was when the key was sealed; \
             undo the last change and restart"
        );
        assert!(
            Error::Unmeasured(vec![4, 7])
                .to_string()
                .contains(" and PCR 7")
        );
    }
}
