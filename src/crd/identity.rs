//! The Doppler identity in the spec.
//!
//! Input: `spec.doppler.identity` as users write it.
//! Output: its type and schema, and the audiences that follow from it.
//! Invariants: no author can name the audience of another binding.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The audience of a spec that names none.
const DEFAULT_AUDIENCE: &str = "https://api.doppler.com";
/// How the audience begins that names a binding. Only the operator sets it.
const BINDING_AUDIENCE: &str = "dopplerPrefectBinding:";

/// A Doppler identity (a service account identity, which Team and Enterprise plans have) in place of a
/// token. The operator requests a token of a service account from the API server, exchanges it at
/// Doppler for a token with a short life, and renews that. See docs/identities.md.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentitySpec {
    /// The id of the identity, which Doppler shows after its creation, such as
    /// `00000000-0000-0000-0000-000000000000`. It is no secret. Default: the block's `identity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9_-]+$"))]
    pub id: Option<String>,
    /// The service account whose token proves the identity. The operator needs the permission to
    /// request tokens of it (`identities.serviceAccounts` in the chart). Its tokens have the subject
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub service_account_ref: ServiceAccountRef,
    /// The audiences of the service account's token, of which the identity in Doppler has to accept
    /// one. The operator always adds `dopplerPrefectBinding:NAMESPACE:NAME`, the audience of this
    /// binding, which no other binding can have. Default: `https://api.doppler.com`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 253)))]
    #[x_kube(validation = super::plain_text::plain_texts())]
    #[x_kube(validation = Rule::new("self.all(audience, !audience.startsWith('dopplerPrefectBinding:'))")
        .message("remove audiences that begin with dopplerPrefectBinding: because the operator adds the one of this binding"))]
    pub audiences: Vec<String>,
}

/// A service account in the binding's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountRef {
    /// Name of the service account, in the binding's namespace.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}

impl IdentitySpec {
    /// The audiences of the token for a binding: those of the spec or the default, then that of the
    /// binding.
    ///
    /// # Errors
    /// The path of an audience that only the operator may set. The CRD refuses it, but an older one
    /// may have admitted the binding.
    pub fn audiences(&self, namespace: &str, binding: &str) -> Result<Vec<String>, String> {
        let is_reserved = |audience: &String| audience.starts_with(BINDING_AUDIENCE);
        if let Some(at) = self.audiences.iter().position(is_reserved) {
            return Err(format!("spec.doppler.identity.audiences[{at}]"));
        }
        let mut audiences = self.audiences.clone();
        if audiences.is_empty() {
            audiences.push(DEFAULT_AUDIENCE.to_owned());
        }
        audiences.push(format!("{BINDING_AUDIENCE}{namespace}:{binding}"));
        Ok(audiences)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audiences(given: &[&str]) -> Result<Vec<String>, String> {
        let spec = IdentitySpec {
            audiences: given.iter().map(|&audience| audience.to_owned()).collect(),
            ..IdentitySpec::default()
        };
        spec.audiences("flows", "etl")
    }

    #[test]
    fn the_audience_of_the_binding_comes_last() {
        let own = "dopplerPrefectBinding:flows:etl";
        assert_eq!(audiences(&[]).unwrap(), ["https://api.doppler.com", own]);
        assert_eq!(audiences(&["a", "b"]).unwrap(), ["a", "b", own]);
    }

    #[test]
    fn a_binding_cannot_have_the_audience_of_another_one() {
        let path = audiences(&["a", "dopplerPrefectBinding:flows:other"]);
        assert_eq!(path.unwrap_err(), "spec.doppler.identity.audiences[1]");
    }
}
