//! `keyd.toml`.

use serde::Deserialize;
use tpm::Policy;

/// keyd's settings; see [`runtime::config`] for where they come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// The TPM.
    pub(crate) tcti: String,
    /// PCRs (SHA-256 bank) whose values at the first start every later start must show.
    pub(crate) pcrs: Vec<u8>,
    /// Seals although the firmware measured nothing. For machines booted without firmware (tests).
    pub(crate) allow_unmeasured: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            tcti: "device:/dev/tpmrm0".into(),
            pcrs: vec![7],
            allow_unmeasured: false,
        }
    }
}

impl Settings {
    pub(crate) fn policy(&self) -> Policy {
        let mut policy = Policy::literal(self.pcrs.iter().copied());
        policy.allow_unmeasured = self.allow_unmeasured;
        policy
    }
}
