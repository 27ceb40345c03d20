//! All that makes one answer of Doppler differ from another.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::Url;

use crate::{crd::NameTransformer, upstream::limiter::LimitKey};

/// Where a config is read, as what, and with which token. Two bindings with equal coordinates get the same answer, so they share one request.
#[derive(Clone)]
pub struct ConfigKey {
    /// Base URL of the API, such as `https://api.doppler.com`.
    pub host: Url,
    /// The token.
    pub token: SecretString,
    /// Doppler project.
    pub project: String,
    /// Doppler config.
    pub config: String,
    /// Doppler's own change of the names.
    pub transformer: Option<NameTransformer>,
}

impl ConfigKey {
    /// By what Doppler counts downloads: the token.
    pub(super) fn download_limit_key(&self) -> LimitKey {
        self.limit_key("download")
    }

    /// By what Doppler counts watch streams: the token, apart from its downloads.
    pub(super) fn stream_limit_key(&self) -> LimitKey {
        self.limit_key("watch")
    }

    fn limit_key(&self, what: &str) -> LimitKey {
        let digest = Sha256::new()
            .chain_update(what)
            .chain_update(self.token.expose_secret());
        LimitKey {
            upstream: self.host.origin().ascii_serialization().into(),
            account: Some(digest.finalize().into()),
        }
    }

    /// The same config with the same token, whatever becomes of the names: coordinates for which this is equal share one watch stream, since a
    /// stream says only that something changed.
    #[must_use]
    pub fn stream_key(&self) -> Self {
        Self {
            transformer: None,
            ..self.clone()
        }
    }

    fn parts(&self) -> (&Url, &str, &str, &str, Option<NameTransformer>) {
        let Self {
            host,
            token,
            project,
            config,
            transformer,
        } = self;
        (host, token.expose_secret(), project, config, *transformer)
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
            .field("project", &self.project)
            .field("config", &self.config)
            .field("transformer", &self.transformer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn key() -> ConfigKey {
        ConfigKey {
            host: Url::parse("https://api.doppler.com").unwrap(),
            token: "canary".into(),
            project: "p".to_owned(),
            config: "dev".to_owned(),
            transformer: None,
        }
    }

    /// Coordinates that differ from the first in one part each; in the transformer the last.
    fn variants() -> [ConfigKey; 6] {
        [
            key(),
            ConfigKey {
                host: Url::parse("https://other.example").unwrap(),
                ..key()
            },
            ConfigKey {
                token: "other".into(),
                ..key()
            },
            ConfigKey {
                project: "q".to_owned(),
                ..key()
            },
            ConfigKey {
                config: "prd".to_owned(),
                ..key()
            },
            ConfigKey {
                transformer: Some(NameTransformer::Camel),
                ..key()
            },
        ]
    }

    #[test]
    fn keys_that_differ_in_any_part_are_unequal() {
        let variants = variants();
        let distinct: HashSet<_> = variants.iter().cloned().chain(variants.clone()).collect();
        assert_eq!(distinct.len(), variants.len());
    }

    #[test]
    fn keys_share_a_stream_across_transformers_only() {
        let streams = variants().map(|at| at.stream_key());
        let distinct: HashSet<_> = streams.iter().cloned().collect();
        assert_eq!(distinct.len(), streams.len() - 1);
        assert_eq!(streams[5], streams[0]);
    }

    #[test]
    fn debug_output_omits_the_token() {
        assert!(!format!("{:?} {:#?}", key(), key()).contains("canary"));
    }
}
