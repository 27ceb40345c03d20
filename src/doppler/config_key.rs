//! The key of one Doppler config: everything that can make one answer differ from another.
//!
//! Input: host, credential, project, config and name transformer of a binding.
//! Output: a [`ConfigKey`] to poll, subscribe and rate limit by.
//! Invariants: two bindings with equal keys share one download. The key of an identity stays the same
//! when its token is renewed. `Debug` never prints a token.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use sha2::{Digest, Sha256};
use url::Url;

use super::{credential::Credential, request::api_url};
use crate::{
    crd::NameTransformer,
    upstream::limiter::{LimitKey, SourceId},
};

/// Host, credential, project, config and name transformer of a download.
#[derive(Clone)]
pub struct ConfigKey {
    /// Base URL of the API, such as `https://api.doppler.com`.
    pub host: Url,
    /// What requests authenticate with.
    pub credential: Credential,
    /// The Doppler project.
    pub project: String,
    /// The Doppler config.
    pub config: String,
    /// How Doppler transforms the names of the secrets.
    pub transformer: Option<NameTransformer>,
}

impl ConfigKey {
    /// The key by which Doppler limits downloads: the token, or the identity whose tokens
    /// follow each other.
    pub(super) fn download_limit_key(&self) -> LimitKey {
        self.limit_key("download")
    }

    /// The key by which Doppler limits watch streams, counted apart from downloads.
    pub(super) fn stream_limit_key(&self) -> LimitKey {
        self.limit_key("watch")
    }

    fn limit_key(&self, kind: &str) -> LimitKey {
        let digest = self.credential.digest(Sha256::new().chain_update(kind));
        LimitKey {
            upstream: self.host.origin().ascii_serialization().into(),
            source: self.source(digest.clone()),
            account: Some(digest.finalize().into()),
            // The account is the credential itself.
            credentials: None,
        }
    }

    /// The source of the answers for this key. `digest` already has the credential.
    fn source(&self, mut digest: Sha256) -> SourceId {
        let transformer = self.transformer.map(NameTransformer::as_str);
        for part in [
            self.host.path(),
            &self.project,
            &self.config,
            transformer.unwrap_or_default(),
        ] {
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let mut source = SourceId::default();
        source.copy_from_slice(&digest[..16]);
        source
    }

    /// The URL of `action` on the config's secrets, with project and config in the query.
    pub(super) fn endpoint(&self, action: &str) -> Url {
        let mut url = api_url(&self.host, &format!("v3/configs/config/secrets/{action}"));
        url.query_pairs_mut()
            .append_pair("project", &self.project)
            .append_pair("config", &self.config);
        url
    }

    /// The key of the watch stream: the same config and credential without the transformer.
    /// A stream only says that something changed, so keys with equal stream keys share a stream.
    #[must_use]
    pub fn stream_key(&self) -> Self {
        Self {
            transformer: None,
            ..self.clone()
        }
    }

    fn parts(&self) -> (&Url, &Credential, &str, &str, Option<NameTransformer>) {
        let Self {
            host,
            credential,
            project,
            config,
            transformer,
        } = self;
        (host, credential, project, config, *transformer)
    }
}

impl PartialEq for ConfigKey {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for ConfigKey {}

impl Hash for ConfigKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl fmt::Debug for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigKey")
            .field("host", &self.host.host_str())
            .field("credential", &self.credential)
            .field("project", &self.project)
            .field("config", &self.config)
            .field("transformer", &self.transformer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
