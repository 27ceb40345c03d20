//! The paths at which webhooks arrive.
//!
//! Input: the path of a request.
//! Output: [`Endpoint`].
//! Invariants: pure. A path contains only names that Kubernetes accepts, so that it can be sent on as it
//! is.

use crate::crd::BindingRef;

/// The path of Doppler's webhooks.
pub const DOPPLER_PATH: &str = "/webhooks/doppler";
/// The path of requests to refresh a binding, as the router matches it.
pub(super) const REFRESH_ROUTE: &str = "/webhooks/refresh/{namespace}/{name}";
/// The longest name that Kubernetes accepts, in bytes.
const MAX_NAME_BYTES: usize = 253;

/// Where a webhook arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// Doppler says that a config changed.
    Doppler,
    /// A client wants the current values of this binding.
    Refresh(BindingRef),
}

impl Endpoint {
    /// The endpoint of a binding. None if no binding can have this name.
    pub(super) fn refresh(namespace: &str, name: &str) -> Option<Self> {
        let is_name = |text: &str| {
            let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            (1..=MAX_NAME_BYTES).contains(&text.len())
                && text
                    .bytes()
                    .all(|byte| is_part(byte) || b"-.".contains(&byte))
                && text.bytes().next().is_some_and(is_part)
        };
        (is_name(namespace) && is_name(name))
            .then(|| Self::Refresh(BindingRef::new(namespace, name)))
    }

    /// The path at which another replica receives the same.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Doppler => DOPPLER_PATH.to_owned(),
            Self::Refresh(binding) => format!(
                "/webhooks/refresh/{}/{}",
                binding.namespace(),
                binding.name()
            ),
        }
    }

    /// Whether a signed body is meant for this endpoint. The signature does not cover the path, so the
    /// body names the binding.
    pub(super) fn accepts(&self, body: &[u8]) -> bool {
        match self {
            Self::Doppler => true,
            Self::Refresh(binding) => {
                let named = format!("{}/{}", binding.namespace(), binding.name());
                body.trim_ascii() == named.as_bytes()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_only_accepted_for_its_own_binding() {
        let endpoint = Endpoint::refresh("flows", "my-project.dev").unwrap();
        assert_eq!(endpoint.path(), "/webhooks/refresh/flows/my-project.dev");
        assert!(endpoint.accepts(b"flows/my-project.dev"));
        assert!(endpoint.accepts(b"flows/my-project.dev\n"));
        for body in ["", "{}", "flows/my-project", "other/my-project.dev"] {
            assert!(!endpoint.accepts(body.as_bytes()), "{body}");
        }
        assert!(Endpoint::Doppler.accepts(b"anything"));
    }

    #[test]
    fn a_path_holds_only_names() {
        let long = "a".repeat(MAX_NAME_BYTES + 1);
        for name in ["", "a/b", "..", "a?b", "a%2fb", "A", "a b", "\u{e4}", &long] {
            assert_eq!(Endpoint::refresh("flows", name), None, "{name}");
            assert_eq!(Endpoint::refresh(name, "b"), None, "{name}");
        }
    }
}
