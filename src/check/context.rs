//! Everything that a check with a cluster needs: the clients, the allowed hosts and the caches.
//!
//! Input: the flags, and the kubeconfig.
//! Output: [`CheckContext`].
//! Invariants: the clients use the permissions of the user, not those of the operator.

use std::{sync::Arc, time::Duration};

use kube::Client;
use url::Url;

use super::{
    error::CheckError,
    operator_settings::{Assumed, OperatorSettings},
};
use crate::{
    args::BlockOverrides,
    controller::{key_refs::KeyRefs, object_cache::ObjectCache, service_types::ServiceTypes},
    doppler,
    outbound::{AllowedHosts, AllowedServers, PatternError},
    prefect::ConnectionInterner,
    process::run::kubernetes,
    secret::{ForbiddenNames, HashKey, SecretClient},
    upstream::limiter::RateLimiter,
};

/// Time limit of one request to the API server.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

/// The hosts that bindings may use.
#[derive(Clone)]
pub(super) struct Hosts {
    /// `--allowed-prefect-host` and `--allowed-prefect-service`
    pub prefect: AllowedServers,
    /// `--allowed-doppler-host`
    pub doppler: AllowedHosts,
    /// Which of them are assumed.
    pub assumed: Assumed,
}

impl Hosts {
    /// The hosts of these settings.
    ///
    /// # Errors
    /// If a pattern is invalid.
    pub fn new(operator: &OperatorSettings) -> Result<Self, PatternError> {
        let services = &operator.prefect_services;
        Ok(Self {
            prefect: AllowedServers::parse(&operator.prefect_hosts, services)?,
            doppler: AllowedHosts::parse("--allowed-doppler-host", &operator.doppler_hosts)?,
            assumed: operator.assumed.clone(),
        })
    }
}

/// The flags that a check with a cluster needs.
pub(super) struct Settings {
    /// `--prefect-api-url`
    pub prefect_api_url: Option<Url>,
    /// `--prefect-timeout`
    pub prefect_timeout: Duration,
    /// `--doppler-timeout`
    pub doppler_timeout: Duration,
    /// `--forbidden-name`
    pub forbidden_names: ForbiddenNames,
    /// `--block-overrides`
    pub block_overrides: BlockOverrides,
    /// `--adopt-without-consent`
    pub adopt_without_consent: bool,
}

/// Everything that a check with a cluster needs.
pub(super) struct CheckContext {
    pub client: Client,
    pub key_refs: KeyRefs,
    pub objects: ObjectCache,
    pub connections: ConnectionInterner,
    pub doppler: doppler::Client,
    pub secrets: SecretClient,
    /// A random key: the check compares data, never hashes.
    pub hash_key: HashKey,
    pub hosts: Hosts,
    pub forbidden_names: ForbiddenNames,
    pub block_overrides: BlockOverrides,
    pub service_types: ServiceTypes,
    pub adopt_without_consent: bool,
    pub prefect_api_url: Option<Url>,
    /// Namespace of bindings that name none, from the kubeconfig.
    pub namespace: String,
}

impl CheckContext {
    /// Connects with the user's own kubeconfig.
    ///
    /// # Errors
    /// If there is no kubeconfig, or a client cannot be created.
    pub async fn new(settings: Settings, hosts: Hosts) -> Result<Self, CheckError> {
        let namespace = kube::Config::infer()
            .await
            .map_or_else(|_| "default".to_owned(), |config| config.default_namespace);
        let client = kubernetes().await?;
        Ok(Self {
            key_refs: KeyRefs::new(client.clone(), TIMEOUT),
            objects: ObjectCache::new(Arc::new(|_| {})),
            connections: ConnectionInterner::new(settings.prefect_timeout, RateLimiter::small()),
            doppler: doppler::Client::new(settings.doppler_timeout, RateLimiter::small())?,
            secrets: SecretClient::new(client.clone(), TIMEOUT),
            hash_key: HashKey::generate(),
            hosts,
            forbidden_names: settings.forbidden_names,
            block_overrides: settings.block_overrides,
            service_types: ServiceTypes::new(client.clone(), TIMEOUT),
            adopt_without_consent: settings.adopt_without_consent,
            prefect_api_url: settings.prefect_api_url,
            namespace,
            client,
        })
    }
}
