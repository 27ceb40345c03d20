//! A stand-in for Doppler. In: projects, configs, secrets and tokens as a test sets them, and faults on demand. Out: the
//! part of Doppler's API that its clients read, over HTTP and TLS, and a record of what was asked. It is checked against
//! Doppler's own clients. It runs on its own thread, so it outlives no test and stops with none but its owner's. It never
//! records a token.

mod answers;
mod door;
mod faults;
mod formats;
mod limits;
mod names;
mod requests;
mod serve;
mod state;
mod watch;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::middleware::from_fn_with_state;

pub use faults::{Fault, FaultId};
pub use limits::RateLimit;
pub use requests::{Counts, DOWNLOAD_PATH, RecordedRequest, WATCH_PATH, fingerprint, hex};
pub use state::Quirks;
pub use watch::{Framing, WatchMode};

use state::{ConfigId, Scope, State};

struct Shared {
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running stand-in. Every method may be called from any thread, at any time; dropping it stops the server.
pub struct Doppler {
    shared: Arc<Shared>,
    server: serve::Server,
    tokens_created: AtomicU64,
}

/// Addresses.
impl Doppler {
    /// Starts an empty Doppler on free ports of 127.0.0.1.
    ///
    /// # Errors
    /// When no port is free or no certificate can be made.
    pub fn start() -> Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new()),
        });
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

    /// The base URL over TLS, under a name of the certificate.
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("https://localhost:{}", self.server.tls.port())
    }

    /// Where plain HTTP/1.1 is served.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.server.http
    }

    /// Where TLS (h2 and HTTP/1.1) is served, for `api.doppler.com`, `localhost` and 127.0.0.1.
    #[must_use]
    pub fn tls_addr(&self) -> SocketAddr {
        self.server.tls
    }

    /// The authority that signed the certificate.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.server.ca_pem
    }
}

/// Projects, configs, secrets. Every change is pushed to open watch streams, as Doppler does.
impl Doppler {
    /// Sets one secret; project and config come to be with it.
    pub fn set(&self, project: &str, config: &str, name: &str, value: &str) {
        self.change(project, config, |state, place| {
            state
                .configs
                .entry(place.clone())
                .or_default()
                .insert(name.to_owned(), value.to_owned());
        });
    }

    /// Makes these the secrets of the config, and no others.
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

    /// Removes a config with its secrets. Its tokens stay and find nothing.
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

    /// A new token of a service account that may read every config.
    #[must_use]
    pub fn account_token(&self) -> String {
        let token = self.new_token("dp.sa");
        self.add_account_token(&token);
        token
    }

    /// Makes `token` a service token for one config.
    pub fn add_service_token(&self, token: &str, project: &str, config: &str) {
        let scope = Scope::Config((project.to_owned(), config.to_owned()));
        self.shared.state().tokens.insert(token.to_owned(), scope);
    }

    /// Makes `token` one that may read every config.
    pub fn add_account_token(&self, token: &str) {
        self.shared
            .state()
            .tokens
            .insert(token.to_owned(), Scope::Workplace);
    }

    /// Makes `token` unknown.
    pub fn revoke(&self, token: &str) {
        self.shared.state().tokens.remove(token);
    }

    fn new_token(&self, prefix: &str) -> String {
        let number = self.tokens_created.fetch_add(1, Ordering::Relaxed);
        // The port keeps the tokens of two stand-ins apart; the tail has the length of a real one.
        let tail = requests::hex(
            fingerprint(&format!("{prefix} {number} {}", self.server.http)).as_bytes(),
        );
        format!("{prefix}.{}{tail}", fingerprint(&tail))
    }
}

/// Faults and limits.
impl Doppler {
    /// From now on, requests for which `when` holds meet this fault. Of several that fit, the one set first wins. `when`
    /// must not call this stand-in.
    pub fn fault(
        &self,
        when: impl Fn(&RecordedRequest) -> bool + Send + Sync + 'static,
        fault: Fault,
    ) -> FaultId {
        self.shared.state().faults.add(None, Box::new(when), fault)
    }

    /// As [`Self::fault`], for that many requests.
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

    /// Ends a fault for requests to come.
    pub fn remove_fault(&self, fault: FaultId) {
        self.shared.state().faults.remove(fault);
    }

    /// Ends all faults for requests to come.
    pub fn clear_faults(&self) {
        self.shared.state().faults.clear();
    }

    /// Starts all windows anew, under this limit. At the start it is [`RateLimit::TEAM`].
    pub fn set_rate_limit(&self, rate: RateLimit) {
        self.shared.state().limits = limits::RateLimiter::new(rate);
    }

    /// Settles what is not known of Doppler.
    pub fn set_quirks(&self, quirks: Quirks) {
        self.shared.state().quirks = quirks;
    }
}

/// Watch streams.
impl Doppler {
    /// Sends an update to the open streams of a config, though nothing has changed.
    pub fn send_update(&self, project: &str, config: &str) {
        let id = (project.to_owned(), config.to_owned());
        self.shared
            .state()
            .streams
            .send_event(&id, "secrets.update");
    }

    /// Sends these chunks, each in a write of its own, to the open streams of a config.
    pub fn send_chunks(&self, project: &str, config: &str, chunks: &[Vec<u8>]) {
        let id = (project.to_owned(), config.to_owned());
        self.shared.state().streams.send_chunks(&id, chunks);
    }

    /// How streams are treated from now on; a stream that is open stays so, but falls silent too.
    pub fn set_watch_mode(&self, watch: WatchMode) {
        self.shared.state().streams.mode = watch;
    }

    /// How frames become chunks from now on.
    pub fn set_framing(&self, framing: Framing) {
        self.shared.state().streams.framing = framing;
    }

    /// The time between pings, for streams opened from now on; 30 s at the start.
    pub fn set_ping_interval(&self, every: Duration) {
        self.shared.state().streams.ping_interval = every;
    }

    /// Ends all open streams; their clients see the end of the body.
    pub fn close_streams(&self) {
        self.shared.state().streams.close_all();
    }

    /// How many streams are open.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.shared.state().streams.count(None)
    }

    /// How many streams of this config are open.
    #[must_use]
    pub fn open_streams_of(&self, project: &str, config: &str) -> usize {
        let id = (project.to_owned(), config.to_owned());
        self.shared.state().streams.count(Some(&id))
    }
}

/// The record.
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

    /// The downloads among [`Self::calls`].
    #[must_use]
    pub fn downloads(&self) -> Vec<RecordedRequest> {
        self.requests()
            .into_iter()
            .filter(RecordedRequest::is_download)
            .collect()
    }

    /// Forgets requests and counters.
    pub fn reset_requests(&self) {
        self.shared.state().requests.reset();
    }
}
