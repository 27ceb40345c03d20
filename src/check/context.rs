//! Everything that a check with a cluster needs: the clients, the allowed hosts and the caches.
//!
//! Input: the flags, and the kubeconfig.
//! Output: [`CheckContext`].
//! Invariants: the clients use the permissions of the user, not those of the operator.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::sync::Mutex;
use url::Url;

use super::{
    error::CheckError,
    operator_settings::{self, Assumed, OperatorSettings},
};
use crate::{
    args::{BlockOverrides, ResolveArgs},
    controller::{
        cluster_servers::ClusterServers, credential::request_jwts, key_refs::KeyRefs,
        object_cache::ObjectCache, service_types::ServiceTypes,
    },
    doppler::{self, Identities, Revoker},
    metrics::Metrics,
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
pub(crate) struct Hosts {
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
    pub(super) fn new(operator: &OperatorSettings) -> Result<Self, PatternError> {
        let services = &operator.prefect_services;
        Ok(Self {
            prefect: AllowedServers::parse(&operator.prefect_hosts, services)?,
            doppler: AllowedHosts::parse("--allowed-doppler-host", &operator.doppler_hosts)?,
            assumed: operator.assumed.clone(),
        })
    }
}

/// Everything that a check with a cluster needs.
pub(crate) struct CheckContext {
    pub client: Client,
    pub key_refs: KeyRefs,
    pub objects: ObjectCache,
    pub connections: ConnectionInterner,
    pub doppler: doppler::Client,
    pub identities: Identities,
    revoker: Mutex<Revoker>,
    pub secrets: SecretClient,
    /// A random key: the check compares data, never hashes.
    pub hash_key: HashKey,
    pub hosts: Hosts,
    pub forbidden_names: ForbiddenNames,
    pub block_overrides: BlockOverrides,
    pub service_types: ServiceTypes,
    pub adopt_without_consent: bool,
    /// The `ClusterPrefectServer`s of the files, and those that were read.
    pub cluster_servers: ClusterServers,
    /// Whether the operator reads `ClusterPrefectServer`s. None if that is not known.
    pub reads_cluster_servers: Option<bool>,
    pub prefect_api_url: Option<Url>,
    /// Namespace of bindings that name none, from the kubeconfig.
    pub namespace: String,
}

impl CheckContext {
    /// Connects with the user's own kubeconfig, and reads the settings of the operator.
    ///
    /// # Errors
    /// If a flag is invalid, there is no kubeconfig, or a client cannot be created.
    pub async fn new(args: ResolveArgs) -> Result<Self, CheckError> {
        let ResolveArgs {
            prefect_api_url,
            operator_namespace,
            prefect_timeout,
            doppler_timeout,
            settings,
        } = args;
        let prefect_api_url = prefect_api_url
            .map(|url| url.trim_end_matches('/').parse())
            .transpose()
            .map_err(|_| CheckError::PrefectUrl)?;
        let namespace = kube::Config::infer()
            .await
            .map_or_else(|_| "default".to_owned(), |config| config.default_namespace);
        let client = kubernetes().await?;
        let flags = operator_settings::read(&client, &operator_namespace, TIMEOUT).await;
        let operator = OperatorSettings::new(settings, flags);
        let limiter = RateLimiter::small();
        let doppler = doppler::Client::new(doppler_timeout, limiter.clone())?;
        let jwts = request_jwts(client.clone(), TIMEOUT);
        let metrics = Arc::new(Metrics::new());
        let (identities, revoker) = Identities::new(doppler_timeout, limiter, jwts, metrics)?;
        Ok(Self {
            key_refs: KeyRefs::new(client.clone(), TIMEOUT),
            objects: ObjectCache::new(Arc::new(|_| {})),
            connections: ConnectionInterner::new(prefect_timeout, RateLimiter::small()),
            doppler,
            identities,
            revoker: Mutex::new(revoker),
            secrets: SecretClient::new(client.clone(), TIMEOUT),
            hash_key: HashKey::generate(),
            hosts: Hosts::new(&operator)?,
            forbidden_names: ForbiddenNames::parse(&operator.forbidden_names)?,
            block_overrides: operator.block_overrides,
            service_types: ServiceTypes::new(client.clone(), TIMEOUT),
            adopt_without_consent: operator.adopt_without_consent,
            cluster_servers: operator.cluster_servers(),
            reads_cluster_servers: operator.reads_cluster_servers,
            prefect_api_url,
            namespace,
            client,
        })
    }
    /// Revokes the tokens that were requested for identities.
    pub(super) async fn revoke_tokens(&self) {
        self.revoker.lock().await.revoke_all().await;
    }
}
