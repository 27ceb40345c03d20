//! One shared connection for equal connections, and one HTTP client for each.
//!
//! Input: a [`Connection`].
//! Output: the shared connection that equals it, and its [`Client`], which keeps open TCP connections
//! and a CSRF token. Thousands of bindings may reach a server in the same way.
//! Invariants: a connection that no binding uses is dropped, and its client and credentials with it.
//! The number of clients is bounded: the least recently used one makes room.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{client::Client, connection::Connection, error::PrefectError, version::ServerVersion};
use crate::upstream::limiter::RateLimiter;

/// The maximum number of clients.
const MAX_CLIENTS: usize = 256;

/// The connections in use, and their clients.
pub struct ConnectionInterner {
    timeout: Duration,
    limiter: RateLimiter<PrefectError>,
    interned: Mutex<HashMap<Arc<Connection>, Interned>>,
}

/// What is kept for a connection.
#[derive(Default)]
struct Interned {
    client: Option<CachedClient>,
    /// The version of the server, once it was read.
    version: Option<ServerVersion>,
}

struct CachedClient {
    client: Arc<Client>,
    used_at: Instant,
}

impl ConnectionInterner {
    /// No connections yet. `timeout` is that of each request once `limiter` permits it.
    #[must_use]
    pub fn new(timeout: Duration, limiter: RateLimiter<PrefectError>) -> Self {
        Self {
            timeout,
            limiter,
            interned: Mutex::default(),
        }
    }

    /// The shared connection that equals this one.
    pub fn intern(&self, connection: Connection) -> Arc<Connection> {
        let mut interned = self.interned.lock();
        if let Some((shared, _)) = interned.get_key_value(&connection) {
            return Arc::clone(shared);
        }
        evict_unused(&mut interned);
        let shared = Arc::new(connection);
        interned.insert(Arc::clone(&shared), Interned::default());
        shared
    }

    /// The client of a connection.
    ///
    /// # Errors
    /// If the certificate authorities of the connection cannot be used.
    pub fn client(&self, connection: &Arc<Connection>) -> Result<Arc<Client>, PrefectError> {
        self.client_at(connection, Instant::now())
    }

    /// The version of the server, once it was read.
    #[must_use]
    pub fn version(&self, connection: &Arc<Connection>) -> Option<ServerVersion> {
        self.interned.lock().get(connection)?.version.clone()
    }

    /// Reads the version of the server and keeps it. None if the server does not say.
    pub(super) async fn read_version(&self, connection: &Arc<Connection>) -> Option<ServerVersion> {
        let client = self.client(connection).ok()?;
        let version = client.version().await.ok().flatten()?;
        if let Some(known) = self.interned.lock().get_mut(connection) {
            known.version = Some(version.clone());
        }
        Some(version)
    }

    /// Drops unused connections. [`Self::intern`] does this too; without new connections, a timer
    /// has to.
    pub fn evict_unused(&self) {
        evict_unused(&mut self.interned.lock());
    }

    fn client_at(
        &self,
        connection: &Arc<Connection>,
        now: Instant,
    ) -> Result<Arc<Client>, PrefectError> {
        let mut interned = self.interned.lock();
        let known = interned.get_mut(connection);
        if let Some(cached) = known.and_then(|known| known.client.as_mut()) {
            cached.used_at = now;
            return Ok(Arc::clone(&cached.client));
        }
        let client = Arc::new(Client::new(connection, self.timeout, self.limiter.clone())?);
        evict_least_recently_used(&mut interned);
        let cached = CachedClient {
            client: Arc::clone(&client),
            used_at: now,
        };
        let known = interned.entry(Arc::clone(connection)).or_default();
        known.client = Some(cached);
        Ok(client)
    }
}

fn evict_unused(interned: &mut HashMap<Arc<Connection>, Interned>) {
    interned.retain(|connection, _| Arc::strong_count(connection) > 1);
}

/// Drops a client if there are too many. Its connection stays.
fn evict_least_recently_used(interned: &mut HashMap<Arc<Connection>, Interned>) {
    let cached = interned.values().filter(|known| known.client.is_some());
    if cached.count() < MAX_CLIENTS {
        return;
    }
    let used_at = |known: &Interned| known.client.as_ref().map(|cached| cached.used_at);
    let clients = interned.values_mut().filter(|known| known.client.is_some());
    if let Some(oldest) = clients.min_by_key(|known| used_at(known)) {
        oldest.client = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{outbound::install_crypto_provider, prefect::connection::Auth};

    fn interner() -> ConnectionInterner {
        install_crypto_provider();
        ConnectionInterner::new(Duration::from_secs(1), RateLimiter::small())
    }

    fn connection(key: &str) -> Connection {
        Connection {
            api_url: "http://p.flows.svc:4200/api".parse().unwrap(),
            auth: Auth::Bearer(key.into()),
            headers: Vec::new(),
            ca: None,
            shared: None,
        }
    }

    #[test]
    fn interns_equal_connections_until_they_are_unused() {
        let connections = interner();
        let one = connections.intern(connection("a"));
        let same = connections.intern(connection("a"));
        assert!(Arc::ptr_eq(&one, &same));
        let other = connections.intern(connection("b"));
        assert!(!Arc::ptr_eq(&one, &other));
        drop((one, same));
        connections.evict_unused();
        let interned = connections.interned.lock();
        assert_eq!(interned.keys().collect::<Vec<_>>(), [&other]);
    }

    #[test]
    fn equal_connections_share_a_client_until_they_are_unused() {
        let connections = interner();
        let one = connections.intern(connection("a"));
        let client = connections.client(&one).unwrap();
        let same = connections.intern(connection("a"));
        assert!(Arc::ptr_eq(&client, &connections.client(&same).unwrap()));
        let other = connections.intern(connection("b"));
        assert!(!Arc::ptr_eq(&client, &connections.client(&other).unwrap()));
        drop((one, same));
        connections.evict_unused();
        assert_eq!(Arc::strong_count(&client), 1, "the client goes with it");
        let again = connections.intern(connection("a"));
        assert!(!Arc::ptr_eq(&client, &connections.client(&again).unwrap()));
    }

    #[test]
    fn evicts_the_least_recently_used_client() {
        let connections = interner();
        let now = Instant::now();
        let mut shared = Vec::new();
        for index in 0..=MAX_CLIENTS {
            let connection = connections.intern(connection(&index.to_string()));
            let at = now + Duration::from_millis(index as u64);
            connections.client_at(&connection, at).unwrap();
            shared.push(connection);
        }
        let interned = connections.interned.lock();
        let clients = interned.values().filter(|known| known.client.is_some());
        assert_eq!(clients.count(), MAX_CLIENTS);
        assert!(interned[&shared[0]].client.is_none());
    }
}
