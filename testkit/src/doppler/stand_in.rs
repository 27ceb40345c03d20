//! The interface of the stand-in for tests.
//!
//! Input: what a test sets. Output: addresses, tokens, and the record of requests.
//! Invariants: every method can be called from any thread at any time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use axum::middleware::from_fn_with_state;

use super::config_id::ConfigId;
use super::faults::{Fault, FaultId};
use super::identities::IdentityRules;
use super::limits::{RateLimit, RateLimiter};
use super::requests::{Counts, RecordedRequest, fingerprint, hex};
use super::shared::Shared;
use super::state::{Quirks, Scope, State};
use super::streams::{Framing, WatchMode};
use super::{answers, door, serve};

/// A running stand-in. It stops with its value.
pub struct Doppler {
    shared: Arc<Shared>,
    server: serve::Server,
    tokens_created: AtomicU64,
}

/// Addresses.
impl Doppler {
    /// Starts a stand-in without configs on free ports of 127.0.0.1.
    ///
    /// # Errors
    /// When no port is free or no certificate can be created.
    pub fn start() -> Result<Self> {
        let shared = Arc::new(Shared::new());
        let router = answers::routes()
            .layer(from_fn_with_state(Arc::clone(&shared), door::handle))
            .with_state(Arc::clone(&shared));
        let served = serve::start(router)?;
        Ok(Self {
            shared,
            server: served,
            tokens_created: AtomicU64::new(0),
        })
    }

    /// The base URL over plain HTTP/1.1.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.server.http)
    }

    /// The base URL over TLS, with a host name of the certificate.
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("https://localhost:{}", self.server.tls.port())
    }

    /// The address for plain HTTP/1.1.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.server.http
    }

    /// The address for TLS (h2 and HTTP/1.1). The certificate is valid for `api.doppler.com`,
    /// `localhost` and 127.0.0.1.
    #[must_use]
    pub fn tls_addr(&self) -> SocketAddr {
        self.server.tls
    }

    /// The certificate authority, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.server.ca_pem
    }
}

/// Projects, configs and secrets. Open watch streams get an event for every change, as from
/// Doppler.
impl Doppler {
    /// Sets one secret. A missing project or config is created.
    pub fn set(&self, project: &str, config: &str, name: &str, value: &str) {
        self.change(project, config, |state, place| {
            state
                .configs
                .entry(place.clone())
                .or_default()
                .insert(name.to_owned(), value.to_owned());
        });
    }

    /// Replaces all secrets of a config.
    pub fn replace<N: Into<String>, V: Into<String>>(
        &self,
        project: &str,
        config: &str,
        secrets: impl IntoIterator<Item = (N, V)>,
    ) {
        let secrets = secrets
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        self.change(project, config, |state, place| {
            state.configs.insert(place.clone(), secrets);
        });
    }

    /// Removes one secret.
    pub fn remove(&self, project: &str, config: &str, name: &str) {
        self.change(project, config, |state, place| {
            if let Some(secrets) = state.configs.get_mut(place) {
                secrets.remove(name);
            }
        });
    }

    /// Removes a config with its secrets. Its tokens stay valid, and get 404.
    pub fn remove_config(&self, project: &str, config: &str) {
        self.change(project, config, |state, place| {
            state.configs.remove(place);
        });
    }

    fn change(&self, project: &str, config: &str, change: impl FnOnce(&mut State, &ConfigId)) {
        let id = (project.to_owned(), config.to_owned());
        let mut state = self.shared.state();
        change(&mut state, &id);
        state.streams.send_event(&id, "secrets.update");
    }
}

/// Tokens.
impl Doppler {
    /// A new service token for one config.
    #[must_use]
    pub fn service_token(&self, project: &str, config: &str) -> String {
        let token = self.new_token(&format!("dp.st.{config}"));
        self.add_service_token(&token, project, config);
        token
    }

    /// A new token of a service account that can read every config.
    #[must_use]
    pub fn account_token(&self) -> String {
        let token = self.new_token("dp.sa");
        self.add_account_token(&token);
        token
    }

    /// Adds `token` as a service token for one config.
    pub fn add_service_token(&self, token: &str, project: &str, config: &str) {
        let scope = Scope::Config((project.to_owned(), config.to_owned()));
        self.shared.state().tokens.insert(token.to_owned(), scope);
    }

    /// Adds `token` as a token that can read every config.
    pub fn add_account_token(&self, token: &str) {
        self.shared
            .state()
            .tokens
            .insert(token.to_owned(), Scope::Workplace);
    }

    /// Revokes a token.
    pub fn revoke(&self, token: &str) {
        self.shared.state().tokens.remove(token);
    }

    fn new_token(&self, prefix: &str) -> String {
        let number = self.tokens_created.fetch_add(1, Ordering::Relaxed);
        // The port makes the tokens of two stand-ins differ. The tail has the length of a real
        // token.
        let tail = hex(fingerprint(&format!("{prefix} {number} {}", self.server.http)).as_bytes());
        format!("{prefix}.{}{tail}", fingerprint(&tail))
    }
}

/// Service account identities.
impl Doppler {
    /// Adds an identity, or replaces its rules.
    pub fn put_identity(&self, id: &str, rules: IdentityRules) {
        let mut state = self.shared.state();
        state.identities.rules.insert(id.to_owned(), rules);
    }

    /// Removes an identity. Its tokens stay valid.
    pub fn remove_identity(&self, id: &str) {
        self.shared.state().identities.rules.remove(id);
    }

    /// Whether the plan of the workplace has identities. The default is true.
    pub fn set_identities_in_plan(&self, included: bool) {
        self.shared.state().identities.missing_in_plan = !included;
    }

    /// Revokes all tokens that were given for identities.
    pub fn revoke_identity_tokens(&self) {
        let mut state = self.shared.state();
        let seen = state.identities.seen.clone();
        for token in seen {
            state.identities.revoke(&token);
            state.tokens.remove(&token);
        }
    }

    /// How many tokens of identities are neither expired nor revoked.
    #[must_use]
    pub fn valid_identity_tokens(&self) -> usize {
        self.shared.state().identities.valid()
    }

    /// Every OIDC token that was received, and every token that was given for one: secrets that no
    /// output of a client may show.
    #[must_use]
    pub fn seen_identity_tokens(&self) -> Vec<String> {
        self.shared.state().identities.seen.clone()
    }
}

/// Faults and limits.
impl Doppler {
    /// Adds a fault for all requests that `when` selects. The fault that was added first wins.
    /// `when` must not call this stand-in.
    pub fn fault(
        &self,
        when: impl Fn(&RecordedRequest) -> bool + Send + Sync + 'static,
        fault: Fault,
    ) -> FaultId {
        self.shared.state().faults.add(None, Box::new(when), fault)
    }

    /// Adds a fault for that number of requests, as [`Self::fault`] does.
    pub fn fault_times(
        &self,
        times: u32,
        when: impl Fn(&RecordedRequest) -> bool + Send + Sync + 'static,
        fault: Fault,
    ) -> FaultId {
        self.shared
            .state()
            .faults
            .add(Some(times), Box::new(when), fault)
    }

    /// Removes a fault.
    pub fn remove_fault(&self, fault: FaultId) {
        self.shared.state().faults.remove(fault);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.shared.state().faults.clear();
    }

    /// Sets the rate limit, and restarts all windows. The default is [`RateLimit::TEAM`].
    pub fn set_rate_limit(&self, rate: RateLimit) {
        self.shared.state().limits = RateLimiter::new(rate);
    }

    /// Sets the behaviour where that of Doppler is not known.
    pub fn set_quirks(&self, quirks: Quirks) {
        self.shared.state().quirks = quirks;
    }
}

/// Watch streams.
impl Doppler {
    /// Sends an update to the open streams of a config without a change.
    pub fn send_update(&self, project: &str, config: &str) {
        let id = (project.to_owned(), config.to_owned());
        self.shared
            .state()
            .streams
            .send_event(&id, "secrets.update");
    }

    /// Sends chunks to the open streams of a config, each in a separate write.
    pub fn send_chunks(&self, project: &str, config: &str, chunks: &[Vec<u8>]) {
        let id = (project.to_owned(), config.to_owned());
        self.shared.state().streams.send_chunks(&id, chunks);
    }

    /// Sets how the server treats watch streams. Open streams stay open; `Silent` applies to them
    /// too.
    pub fn set_watch_mode(&self, watch: WatchMode) {
        self.shared.state().streams.mode = watch;
    }

    /// Sets how frames become chunks.
    pub fn set_framing(&self, framing: Framing) {
        self.shared.state().streams.framing = framing;
    }

    /// Sets the ping interval. The default is 30 s.
    pub fn set_ping_interval(&self, every: Duration) {
        self.shared.state().streams.ping_interval = every;
    }

    /// Closes all open streams: their bodies end.
    pub fn close_streams(&self) {
        self.shared.state().streams.close_all();
    }

    /// The number of open streams.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.shared.state().streams.count(None)
    }

    /// The number of open streams of a config.
    #[must_use]
    pub fn open_streams_of(&self, project: &str, config: &str) -> usize {
        let id = (project.to_owned(), config.to_owned());
        self.shared.state().streams.count(Some(&id))
    }
}

/// The record of requests.
impl Doppler {
    /// Counters since the start or the last reset.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.state().requests.counts.clone()
    }

    /// The latest 20,000 requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared
            .state()
            .requests
            .requests
            .iter()
            .cloned()
            .collect()
    }

    /// The downloads among [`Self::requests`].
    #[must_use]
    pub fn downloads(&self) -> Vec<RecordedRequest> {
        self.requests()
            .into_iter()
            .filter(RecordedRequest::is_download)
            .collect()
    }

    /// Clears the record and the counters.
    pub fn reset_requests(&self) {
        self.shared.state().requests.reset();
    }
}
