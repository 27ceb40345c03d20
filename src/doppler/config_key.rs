//! All that makes one answer of Doppler differ from another.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::Url;

use crate::{crd::NameTransformer, upstream::limiter::Lane};

/// Where a config is read, as what, and with which token. Two bindings with equal coordinates get the same answer, so they share one request.
#[derive(Clone)]
pub struct Coordinates {
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

impl Coordinates {
    /// By what Doppler counts downloads: the token.
    pub(super) fn lane(&self) -> Lane {
        self.counted_as("download")
    }

    /// By what Doppler counts watch streams: the token, apart from its downloads.
    pub(super) fn stream_lane(&self) -> Lane {
        self.counted_as("watch")
    }

    fn counted_as(&self, what: &str) -> Lane {
        let digest = Sha256::new()
            .chain_update(what)
            .chain_update(self.token.expose_secret());
        Lane {
            upstream: self.host.origin().ascii_serialization().into(),
            account: Some(digest.finalize().into()),
        }
    }

    /// The same config with the same token, whatever becomes of the names: coordinates for which this is equal share one watch stream, since a
    /// stream says only that something changed.
    #[must_use]
    pub fn stream(&self) -> Self {
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

impl PartialEq for Coordinates {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Coordinates {}

impl Hash for Coordinates {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl fmt::Debug for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinates")
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

    fn coordinates() -> Coordinates {
        Coordinates {
            host: Url::parse("https://api.doppler.com").unwrap(),
            token: "canary".into(),
            project: "p".to_owned(),
            config: "dev".to_owned(),
            transformer: None,
        }
    }

    /// Coordinates that differ from the first in one part each; in the transformer the last.
    fn variants() -> [Coordinates; 6] {
        [
            coordinates(),
            Coordinates {
                host: Url::parse("https://other.example").unwrap(),
                ..coordinates()
            },
            Coordinates {
                token: "other".into(),
                ..coordinates()
            },
            Coordinates {
                project: "q".to_owned(),
                ..coordinates()
            },
            Coordinates {
                config: "prd".to_owned(),
                ..coordinates()
            },
            Coordinates {
                transformer: Some(NameTransformer::Camel),
                ..coordinates()
            },
        ]
    }

    #[test]
    fn each_part_makes_a_difference() {
        let variants = variants();
        let distinct: HashSet<_> = variants.iter().cloned().chain(variants.clone()).collect();
        assert_eq!(distinct.len(), variants.len());
    }

    #[test]
    fn each_part_but_the_transformer_asks_for_a_stream_of_its_own() {
        let streams = variants().map(|at| at.stream());
        let distinct: HashSet<_> = streams.iter().cloned().collect();
        assert_eq!(distinct.len(), streams.len() - 1);
        assert_eq!(streams[5], streams[0]);
    }

    #[test]
    fn does_not_print_the_token() {
        assert!(!format!("{:?} {:#?}", coordinates(), coordinates()).contains("canary"));
    }
}
