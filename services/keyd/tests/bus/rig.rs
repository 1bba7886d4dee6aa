//! keyd as a plain process on a private bus, with a software TPM.

use contract::{Error, Fields, FieldsExt, KeysProxy};
use rcgen::{CertificateParams, KeyPair};
use runtime::testing::Appliance;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tpm::testing::Swtpm;
use zbus::zvariant::OwnedFd;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_strongroom-keyd");
const FILE: &str = "strongroom-keyd";

const UNIT: &str = include_str!("../../../../image/common/systemd/strongroom-keyd.service");

pub(crate) struct Rig {
    program: PathBuf,
    pub(crate) appliance: Appliance,
    pub(crate) tpm: Swtpm,
    pub(crate) keys: KeysProxy<'static>,
}

impl Rig {
    pub(crate) async fn new() -> Rig {
        Rig::of(PROGRAM.into(), Appliance::new()).await
    }

    /// With the environment its unit gives it.
    pub(crate) async fn as_unit() -> Rig {
        let appliance = Appliance::new();
        let environment: String = UNIT
            .lines()
            .filter_map(|line| line.strip_prefix("Environment="))
            .map(|setting| format!("export '{setting}'\n"))
            .collect();
        let program = appliance.path(FILE);
        let script = format!("#!/bin/sh\n{environment}exec {PROGRAM}\n");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        Rig::of(program, appliance).await
    }

    async fn of(program: PathBuf, mut appliance: Appliance) -> Rig {
        let tpm = Swtpm::new();
        configure(&appliance, &tpm.tcti());
        appliance.start(&program, "org.strongroom.Keys1").await;
        let keys = proxy(&appliance).await;
        Rig {
            program,
            appliance,
            tpm,
            keys,
        }
    }

    pub(crate) fn stop(&mut self) {
        self.appliance.stop(FILE, nix::sys::signal::Signal::SIGTERM);
    }

    /// Starts keyd again, with the TPM that `tpm` now is.
    pub(crate) async fn start(&mut self) {
        configure(&self.appliance, &self.tpm.tcti());
        self.appliance
            .start(&self.program, "org.strongroom.Keys1")
            .await;
        self.keys = proxy(&self.appliance).await;
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.appliance.path("var/lib/strongroom/keyd")
    }

    fn store(&self) -> serde_json::Value {
        let store = ledger::Ledger::open(self.state_dir().join("store")).unwrap();
        store.state.unwrap()
    }

    /// The root key, by the TPM.
    pub(crate) fn root(&self) -> zeroize::Zeroizing<[u8; 32]> {
        let sealed: tpm::Sealed = serde_json::from_value(self.store()["sealed"].clone()).unwrap();
        let sealer = tpm::Sealer::new(&self.tpm.tcti()).unwrap();
        sealer.unseal(&sealed).unwrap()
    }

    /// An entry of the store in clear, as `src/wrap.rs` says it is wrapped.
    pub(crate) fn entry(&self, name: &str) -> Vec<u8> {
        use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
        use ring::hkdf::{HKDF_SHA256, Salt};
        let text = self.store()["entries"][name].as_str().unwrap().to_owned();
        let mut bytes = data_encoding::BASE64.decode(text.as_bytes()).unwrap();
        let context = format!("entry\0{name}").into_bytes();
        let extracted = Salt::new(HKDF_SHA256, b"strongroom wrap v1").extract(&self.root()[..]);
        let info = [&context[..]];
        let key: UnboundKey = extracted.expand(&info, &AES_256_GCM).unwrap().into();
        let (nonce, sealed) = bytes.split_at_mut(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).unwrap();
        let opened = LessSafeKey::new(key).open_in_place(nonce, Aad::from(context), sealed);
        opened.unwrap().to_vec()
    }

    /// Whatever keyd wrote anywhere: state and log.
    pub(crate) fn written(&self) -> Vec<u8> {
        let mut all = self.appliance.log(FILE).into_bytes();
        for file in std::fs::read_dir(self.state_dir()).unwrap() {
            all.extend(std::fs::read(file.unwrap().path()).unwrap());
        }
        all
    }
}

pub(crate) fn configure(appliance: &Appliance, tcti: &str) {
    appliance.configure("keyd", &format!("tcti = \"{tcti}\"\n"));
}

pub(crate) async fn proxy(appliance: &Appliance) -> KeysProxy<'static> {
    KeysProxy::builder(&appliance.connect().await)
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await
        .unwrap()
}

/// What came through the pipe.
pub(crate) fn taken(pipe: Result<OwnedFd, Error>) -> Vec<u8> {
    runtime::pipe::take_key(pipe.unwrap()).unwrap().to_vec()
}

pub(crate) fn bytes(fields: &Fields, name: &str) -> Vec<u8> {
    fields.required(name).unwrap()
}

pub(crate) fn text(fields: &Fields, name: &str) -> String {
    fields.required(name).unwrap()
}

/// A key pair and its PKCS#10 request, which asks for more than it gets.
pub(crate) fn request() -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["centre.strongroom".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&key).unwrap();
    (key, csr.der().to_vec())
}

/// Joins `site` to `centre` as the daemons will: tenant "acme", site "s1". Answers what
/// MakeTenantKey answered.
pub(crate) async fn enrol(centre: &Rig, site: &Rig, custody: &str) -> Fields {
    let init = centre.keys.init_centre("Example MSP").await.unwrap();
    let wanted = site
        .keys
        .prepare_enrolment(Default::default())
        .await
        .unwrap();
    let wrap = bytes(&init, "wrap");
    let options = [("wrap", wrap.into())].into();
    let made = site
        .keys
        .make_tenant_key("acme", custody, options)
        .await
        .unwrap();
    let chain = centre
        .keys
        .issue_site("acme", "s1", &bytes(&wanted, "csr"))
        .await
        .unwrap();
    hold(centre, custody, &made).await.unwrap();
    let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
    site.keys
        .complete_enrolment(&chain, &bytes(&init, "fleet"))
        .await
        .unwrap();
    made
}

/// The centre keeps what the site made.
pub(crate) async fn hold(centre: &Rig, custody: &str, made: &Fields) -> Result<(), Error> {
    let (name, value) = match custody {
        "msp" => ("wrapped", bytes(made, "wrapped")),
        _ => ("share", bytes(made, "centre_share")),
    };
    let held = [
        ("custody", custody.into()),
        ("datastore", text(made, "datastore").into()),
        ("keyset", bytes(made, "keyset").into()),
        (name, value.into()),
    ];
    centre.keys.hold_custody("acme", held.into()).await
}
