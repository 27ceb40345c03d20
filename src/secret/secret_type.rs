//! Checks that a Secret has what its type needs. Pure.
//!
//! Input: the type of the spec, and the content.
//! Output: what is missing.
//! Invariants: the rules of the API server, so that a refusal names the field. Never shows a value.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretSlice};
use serde::de::IgnoredAny;

use crate::crd::SecretType;

/// A Secret that the API server would refuse for its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "spec.managedSecret.type is {}, and {problem}: add the key to spec.managedSecret.files, or give a value this name with spec.doppler.rename", type_.as_str()
)]
pub struct InvalidType {
    type_: SecretType,
    problem: String,
}

/// Checks `data`.
///
/// # Errors
/// If the type needs another key, or other content.
pub fn check_type(
    type_: SecretType,
    data: &BTreeMap<String, SecretSlice<u8>>,
) -> Result<(), InvalidType> {
    let invalid = |problem: String| Err(InvalidType { type_, problem });
    let (all, any): (&[&str], &[&str]) = match type_ {
        SecretType::Opaque => return Ok(()),
        SecretType::Tls => (&["tls.crt", "tls.key"], &[]),
        SecretType::DockerConfigJson => (&[".dockerconfigjson"], &[]),
        SecretType::BasicAuth => (&[], &["username", "password"]),
        SecretType::SshAuth => (&["ssh-privatekey"], &[]),
    };
    let missing: Vec<&str> = all
        .iter()
        .copied()
        .filter(|key| !data.contains_key(*key))
        .collect();
    if !missing.is_empty() {
        return invalid(format!("the Secret has no {}", missing.join(", ")));
    }
    if !any.is_empty() && !any.iter().any(|key| data.contains_key(*key)) {
        return invalid(format!("the Secret has no {}", any.join(" or ")));
    }
    if type_ == SecretType::DockerConfigJson {
        let config = data.get(".dockerconfigjson");
        let is_json = config.is_some_and(|config| {
            serde_json::from_slice::<IgnoredAny>(config.expose_secret()).is_ok()
        });
        if !is_json {
            return invalid(".dockerconfigjson is not JSON".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(type_: SecretType, keys: &[(&str, &str)]) -> Result<(), String> {
        let data = keys
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec().into()));
        check_type(type_, &data.collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn names_what_the_type_needs() {
        use SecretType::{BasicAuth, DockerConfigJson, Opaque, SshAuth, Tls};
        for (type_, keys, problem) in [
            (Opaque, &[][..], None),
            (
                Tls,
                &[("tls.crt", ""), ("tls.key", ""), ("ca.crt", "")][..],
                None,
            ),
            (Tls, &[("tls.crt", "")][..], Some("has no tls.key")),
            (Tls, &[][..], Some("has no tls.crt, tls.key")),
            (
                DockerConfigJson,
                &[(".dockerconfigjson", "{\"auths\":{}}")][..],
                None,
            ),
            (
                DockerConfigJson,
                &[(".dockerconfigjson", "{s3cr3t")][..],
                Some("is not JSON"),
            ),
            (
                DockerConfigJson,
                &[("a", "")][..],
                Some("has no .dockerconfigjson"),
            ),
            (BasicAuth, &[("password", "")][..], None),
            (
                BasicAuth,
                &[("PASSWORD", "")][..],
                Some("has no username or password"),
            ),
            (SshAuth, &[("ssh-privatekey", "")][..], None),
            (SshAuth, &[][..], Some("has no ssh-privatekey")),
        ] {
            let found = check(type_, keys).err();
            assert_eq!(found.is_some(), problem.is_some(), "{type_:?} {found:?}");
            let (found, problem) = (found.unwrap_or_default(), problem.unwrap_or_default());
            assert!(
                found.contains(problem) && !found.contains("s3cr3t"),
                "{found}"
            );
        }
    }
}
