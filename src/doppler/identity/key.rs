//! Which identity a binding uses, and as which service account.
//!
//! Input: the spec of a binding.
//! Output: [`IdentityKey`]: what a token is requested with.
//! Invariants: pure data without secrets. The audiences contain the name of the binding, so that no
//! two bindings have equal keys.

use sha2::{Digest, Sha256};
use url::Url;

/// What decides which token Doppler gives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdentityKey {
    /// Base URL of Doppler's API.
    pub host: Url,
    /// The id of the identity in Doppler.
    pub id: String,
    /// The namespace of the binding and of the service account.
    pub namespace: String,
    /// The service account that proves the identity.
    pub service_account: String,
    /// The audiences of the service account's token. The last one names the binding.
    pub audiences: Vec<String>,
}

impl IdentityKey {
    /// The subject of the service account's tokens.
    #[must_use]
    pub fn subject(&self) -> String {
        format!(
            "system:serviceaccount:{}:{}",
            self.namespace, self.service_account
        )
    }

    /// Adds everything to a digest. The number of audiences is clear, because they come last.
    pub(in crate::doppler) fn digest(&self, mut digest: Sha256) -> Sha256 {
        let fixed = [
            self.host.as_str(),
            &self.id,
            &self.namespace,
            &self.service_account,
        ];
        digest.update("identity");
        for part in fixed
            .into_iter()
            .chain(self.audiences.iter().map(String::as_str))
        {
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        }
        digest
    }
}
