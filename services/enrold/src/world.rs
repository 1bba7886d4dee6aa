//! What becoming a site or a centre asks of the rest of the house: the seam at which the steps are
//! tested with a crash after each.

use contract::Error;
use protocol::enrol::{Custody, Grant, Offer};
use protocol::token::{FINGERPRINT, Token};
use std::future::Future;
use zeroize::Zeroizing;

/// The client's shares, as words to print once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) client: Zeroizing<String>,
    pub(crate) envelope: Zeroizing<String>,
}

/// What a centre granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) offer: Offer,
    pub(crate) datastore: String,
    pub(crate) grant: Grant,
    /// Under client custody.
    pub(crate) shares: Option<Shares>,
}

/// An address and role for uplinkd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Uplink {
    Site {
        address: String,
        peer: [u8; 32],
        /// host:port (UDP).
        endpoint: String,
        /// The centre's address in the tunnel.
        centre: String,
        /// host:port of the centre's portal, which tells the time.
        time: String,
        fingerprint: Vec<u8>,
    },
    Centre {
        address: String,
        port: u16,
    },
}

/// Every member is idempotent: asked again after a crash, it does what is missing.
pub(crate) trait World: Sync {
    /// The connection over which the centre still waits for our word.
    type Waiting: Send;

    /// Fails when keyd is not ready, so that nothing else is begun without a TPM.
    fn check_keys(&self) -> impl Future<Output = Result<(), Error>> + Send;
    /// Sets the clock from the centre.
    fn sync_clock(&self, token: &Token) -> impl Future<Output = Result<(), Error>> + Send;
    /// Asks the centre to be taken, and makes the keys its offer asks for.
    fn join(
        &self,
        token: &Token,
    ) -> impl Future<Output = Result<(Joined, Self::Waiting), Error>> + Send;
    /// Tells the centre that the grant is kept. That may be lost: the token is bound to us anyway.
    fn confirm(&self, waiting: Self::Waiting) -> impl Future<Output = ()> + Send;
    /// Gives keyd the grant, and the authority it is by.
    fn complete(
        &self,
        grant: &Grant,
        fleet: &[u8],
    ) -> impl Future<Output = Result<(), Error>> + Send;
    /// Configures the uplink.
    fn uplink(&self, uplink: &Uplink) -> impl Future<Output = Result<(), Error>> + Send;
    /// Makes the pool.
    fn pool(&self) -> impl Future<Output = Result<(), Error>> + Send;
    /// Makes the fleet authority, answered as DER, and the wrap key it names.
    fn found(&self, name: &str) -> impl Future<Output = Result<Vec<u8>, Error>> + Send;
    /// Makes a new tenant key under this custody and has the centre hold it.
    fn change_custody(
        &self,
        tenant: &str,
        custody: Custody,
        fingerprint: &[u8; FINGERPRINT],
    ) -> impl Future<Output = Result<Option<Shares>, Error>> + Send;
    /// What is done now, for whoever watches.
    fn tell(&self, what: &str);
}
