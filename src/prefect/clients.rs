//! One client for each server and credentials, however many bindings use it.
//!
//! In: a [`Connection`]. Out: the [`Client`] that is kept for it, with its open connections and its CSRF token. A client that is not used for
//! a while is dropped, and its credentials with it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{client::Client, connection::Connection, error::PrefectError};
use crate::upstream::limiter::RateLimiter;

/// How long an unused client is kept.
const KEPT_FOR: Duration = Duration::from_mins(10);
/// How many clients are kept: with more servers than that, the one longest unused makes room.
const KEPT: usize = 256;

/// The clients in use.
pub struct Clients {
    timeout: Duration,
    limiter: RateLimiter<PrefectError>,
    kept: Mutex<HashMap<Connection, Kept>>,
}

struct Kept {
    client: Arc<Client>,
    asked_for: Instant,
}

impl Clients {
    /// No clients yet. `timeout` is that of each request, once `gate` lets it through.
    #[must_use]
    pub fn new(timeout: Duration, limiter: RateLimiter<PrefectError>) -> Self {
        Self {
            timeout,
            limiter,
            kept: Mutex::default(),
        }
    }

    /// The client of a connection.
    ///
    /// # Errors
    /// If its certificate authorities cannot be used.
    pub fn get(&self, connection: &Connection) -> Result<Arc<Client>, PrefectError> {
        self.get_at(connection, Instant::now())
    }

    /// Drops clients that were not used for a while. [`Clients::get`] does so too; this serves the time without calls of it.
    pub fn forget_unused(&self) {
        forget_unused(&mut self.lock(), Instant::now());
    }

    fn get_at(&self, connection: &Connection, now: Instant) -> Result<Arc<Client>, PrefectError> {
        let mut clients = self.lock();
        forget_unused(&mut clients, now);
        if let Some(kept) = clients.get_mut(connection) {
            kept.asked_for = now;
            return Ok(kept.client.clone());
        }
        let client = Arc::new(Client::new(connection, self.timeout, self.limiter.clone())?);
        if clients.len() >= KEPT {
            let oldest = clients.iter().min_by_key(|(_, kept)| kept.asked_for);
            if let Some(oldest) = oldest.map(|(connection, _)| connection.clone()) {
                clients.remove(&oldest);
            }
        }
        let kept = Kept {
            client: client.clone(),
            asked_for: now,
        };
        clients.insert(connection.clone(), kept);
        Ok(client)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Connection, Kept>> {
        // Nothing is left half done under this lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget_unused(clients: &mut HashMap<Connection, Kept>, now: Instant) {
    clients.retain(|_, kept| now.saturating_duration_since(kept.asked_for) < KEPT_FOR);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{outbound::install_crypto_provider, prefect::connection::Auth};

    fn connection(key: &str) -> Connection {
        Connection {
            api_url: "http://p.flows.svc:4200/api".parse().unwrap(),
            auth: Auth::Bearer(key.into()),
            headers: Vec::new(),
            ca: None,
        }
    }

    #[test]
    fn equal_connections_share_a_client_until_it_is_unused() {
        install_crypto_provider();
        let clients = Clients::new(Duration::from_secs(1), RateLimiter::small());
        let now = Instant::now();
        let one = clients.get_at(&connection("a"), now).unwrap();
        let later = now + KEPT_FOR / 2;
        assert!(Arc::ptr_eq(
            &one,
            &clients.get_at(&connection("a"), later).unwrap()
        ));
        let other = clients.get_at(&connection("b"), later).unwrap();
        assert!(!Arc::ptr_eq(&one, &other));
        clients
            .get_at(&connection("b"), later + KEPT_FOR / 2)
            .unwrap();
        let much_later = later + KEPT_FOR;
        assert!(Arc::ptr_eq(
            &other,
            &clients.get_at(&connection("b"), much_later).unwrap()
        ));
        assert_eq!(clients.lock().len(), 1);
        assert!(!Arc::ptr_eq(
            &one,
            &clients.get_at(&connection("a"), much_later).unwrap()
        ));
    }

    #[test]
    fn the_number_of_clients_is_bounded() {
        install_crypto_provider();
        let clients = Clients::new(Duration::from_secs(1), RateLimiter::small());
        let now = Instant::now();
        for index in 0..=KEPT {
            let at = now + Duration::from_millis(index as u64);
            clients.get_at(&connection(&index.to_string()), at).unwrap();
        }
        let kept = clients.lock();
        assert_eq!(kept.len(), KEPT);
        assert!(!kept.contains_key(&connection("0")));
    }
}
