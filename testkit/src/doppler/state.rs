//! The data of the stand-in: configs, tokens, and which token can read which config.
//!
//! Input: the token, project and config of a request. Output: the secrets of the config, or
//! Doppler's error.
//! Invariants: independent of HTTP.

use std::collections::{BTreeMap, HashMap};

use super::api_error::ApiError;
use super::config_id::ConfigId;
use super::faults::Faults;
use super::identities::Identities;
use super::limits::{RateLimit, RateLimiter};
use super::requests::RequestLog;
use super::streams::Streams;

/// The scope of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// A service token: one config, which a request can omit.
    Config(ConfigId),
    /// A service account or a user: every config, and each request must name one.
    Workplace,
}

/// Behaviour of Doppler that is not known for certain, or that has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quirks {
    /// A config has one `ETag` for all formats, transformers and subsets.
    pub one_etag_per_config: bool,
    /// A subset (`secrets=`) includes `DOPPLER_PROJECT`, `DOPPLER_ENVIRONMENT` and
    /// `DOPPLER_CONFIG`.
    pub subset_includes_builtin_names: bool,
    /// The status for an invalid or revoked token: 401; 400 was observed too.
    pub bad_token_status: u16,
    /// The status for a missing project or config: 404; 400 was observed too.
    pub missing_status: u16,
    /// A watch stream ends when the token expires with which it was opened.
    pub expiry_closes_streams: bool,
}

impl Default for Quirks {
    fn default() -> Self {
        Self {
            one_etag_per_config: false,
            subset_includes_builtin_names: false,
            bad_token_status: 401,
            missing_status: 404,
            expiry_closes_streams: false,
        }
    }
}

pub(super) struct State {
    pub(super) configs: BTreeMap<ConfigId, BTreeMap<String, String>>,
    pub(super) tokens: HashMap<String, Scope>,
    pub(super) identities: Identities,
    pub(super) quirks: Quirks,
    pub(super) limits: RateLimiter,
    pub(super) faults: Faults,
    pub(super) requests: RequestLog,
    pub(super) streams: Streams,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            configs: BTreeMap::new(),
            tokens: HashMap::new(),
            identities: Identities::default(),
            quirks: Quirks::default(),
            limits: RateLimiter::new(RateLimit::TEAM),
            faults: Faults::default(),
            requests: RequestLog::default(),
            streams: Streams::default(),
        }
    }

    /// The scope of a token.
    pub(super) fn scope(&self, token: Option<&str>) -> Result<&Scope, ApiError> {
        token
            .filter(|token| !self.identities.is_expired(token))
            .and_then(|token| self.tokens.get(token))
            .ok_or_else(|| ApiError {
                status: self.quirks.bad_token_status,
                message: "Invalid Auth token".to_owned(),
            })
    }

    /// The config of a request. Doppler's CLI sends empty names instead of none.
    pub(super) fn resolve_config(
        &self,
        token: Option<&str>,
        project: Option<&str>,
        config: Option<&str>,
    ) -> Result<ConfigId, ApiError> {
        let project = project.filter(|name| !name.is_empty());
        let config = config.filter(|name| !name.is_empty());
        let refuse = |status, message: String| Err(ApiError { status, message });
        let place = match self.scope(token)? {
            Scope::Config(own) => {
                if let Some(other) = project.filter(|name| *name != own.0) {
                    return refuse(
                        400,
                        format!("This token does not have access to requested project '{other}'"),
                    );
                }
                if let Some(other) = config.filter(|name| *name != own.1) {
                    return refuse(
                        400,
                        format!("This token does not have access to requested config '{other}'"),
                    );
                }
                own.clone()
            }
            Scope::Workplace => {
                let Some(project) = project else {
                    return refuse(400, "You must specify a project".to_owned());
                };
                let Some(config) = config else {
                    return refuse(400, "You must specify a config".to_owned());
                };
                (project.to_owned(), config.to_owned())
            }
        };
        if self.configs.contains_key(&place) {
            return Ok(place);
        }
        let (project, config) = &place;
        let missing = if self.configs.keys().any(|(known, _)| known == project) {
            format!("Could not find requested config '{config}'")
        } else {
            format!("Could not find requested project '{project}'")
        };
        refuse(self.quirks.missing_status, missing)
    }

    /// The secrets of a config with the three names that Doppler adds; only those of `subset`, if
    /// it is set.
    pub(super) fn secrets(&self, id: &ConfigId, subset: Option<&str>) -> BTreeMap<String, String> {
        let (project, config) = id;
        // The name of a branch config starts with its environment: `dev_personal` is in `dev`.
        let environment = config.split('_').next().unwrap_or_default();
        let builtin = [
            ("DOPPLER_PROJECT", project.as_str()),
            ("DOPPLER_ENVIRONMENT", environment),
            ("DOPPLER_CONFIG", config),
        ];
        let is_builtin = |name: &str| builtin.iter().any(|(own, _)| *own == name);
        let mut all = self.configs.get(id).cloned().unwrap_or_default();
        all.extend(
            builtin
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        if let Some(subset) = subset.filter(|names| !names.is_empty()) {
            let wanted: Vec<&str> = subset.split(',').map(str::trim).collect();
            all.retain(|name, _| {
                wanted.contains(&name.as_str())
                    || (self.quirks.subset_includes_builtin_names && is_builtin(name))
            });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let mut state = State::new();
        let dev = ("shop".to_owned(), "dev_personal".to_owned());
        state
            .configs
            .insert(dev.clone(), [("KEY".to_owned(), "1".to_owned())].into());
        state
            .tokens
            .insert("dp.st.x".to_owned(), Scope::Config(dev));
        state.tokens.insert("dp.sa.x".to_owned(), Scope::Workplace);
        state
    }

    fn error_of(token: &str, project: &str, config: &str) -> (u16, String) {
        let error = state()
            .resolve_config(Some(token), Some(project), Some(config))
            .unwrap_err();
        (error.status, error.message)
    }

    #[test]
    fn a_service_token_needs_no_names() {
        let id = state()
            .resolve_config(Some("dp.st.x"), Some(""), None)
            .unwrap();
        assert_eq!(id, ("shop".to_owned(), "dev_personal".to_owned()));
    }

    #[test]
    fn a_service_token_cannot_read_other_configs() {
        let to = |what: &str| format!("This token does not have access to requested {what}");
        assert_eq!(
            error_of("dp.st.x", "shop", "prd"),
            (400, to("config 'prd'"))
        );
        assert_eq!(
            error_of("dp.st.x", "bank", "dev_personal"),
            (400, to("project 'bank'"))
        );
    }

    #[test]
    fn error_names_the_missing_project_or_config() {
        let missing = |what: &str| format!("Could not find requested {what}");
        assert_eq!(
            error_of("dp.sa.x", "shop", "prd"),
            (404, missing("config 'prd'"))
        );
        assert_eq!(
            error_of("dp.sa.x", "bank", "dev"),
            (404, missing("project 'bank'"))
        );
        assert_eq!(error_of("dp.sa.x", "shop", "").0, 400);
        assert_eq!(
            error_of("dp.st.gone", "shop", "dev"),
            (401, "Invalid Auth token".to_owned())
        );
    }

    #[test]
    fn secrets_include_the_builtin_names() {
        let id = ("shop".to_owned(), "dev_personal".to_owned());
        let names = |secrets: BTreeMap<String, String>| secrets.into_keys().collect::<Vec<_>>();
        let all = state().secrets(&id, None);
        assert_eq!(all["DOPPLER_ENVIRONMENT"], "dev");
        assert_eq!(
            names(all),
            [
                "DOPPLER_CONFIG",
                "DOPPLER_ENVIRONMENT",
                "DOPPLER_PROJECT",
                "KEY"
            ]
        );
        assert_eq!(names(state().secrets(&id, Some("KEY,GONE"))), ["KEY"]);
    }
}
