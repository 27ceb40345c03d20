//! Equal connections as one: thousands of bindings reach a server in the same way, and a connection may hold a bundle of certificates.
//!
//! In: a [`Connection`]. Out: the one that all share who reach the same server in the same way. An unused connection is dropped, and its credentials
//! with it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use super::connection::Connection;

/// The connections in use.
#[derive(Default)]
pub struct ConnectionInterner(Mutex<HashSet<Arc<Connection>>>);

impl ConnectionInterner {
    /// The connection that equals this one.
    pub fn intern(&self, connection: Connection) -> Arc<Connection> {
        let mut interned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = interned.get(&connection) {
            return Arc::clone(shared);
        }
        evict_unused(&mut interned);
        let shared = Arc::new(connection);
        interned.insert(Arc::clone(&shared));
        shared
    }

    /// Drops unused connections. [`ConnectionInterner::intern`] does so too; this serves the time without new connections.
    pub fn forget_unused(&self) {
        evict_unused(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn evict_unused(interned: &mut HashSet<Arc<Connection>>) {
    interned.retain(|connection| Arc::strong_count(connection) > 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefect::connection::Auth;

    fn connection(key: &str) -> Connection {
        Connection {
            api_url: "http://p.flows.svc:4200/api".parse().unwrap(),
            auth: Auth::Bearer(key.into()),
            headers: Vec::new(),
            ca: None,
        }
    }

    #[test]
    fn interns_equal_connections_until_they_are_unused() {
        let connections = ConnectionInterner::default();
        let (one, same) = (
            connections.intern(connection("a")),
            connections.intern(connection("a")),
        );
        assert!(Arc::ptr_eq(&one, &same));
        let other = connections.intern(connection("b"));
        assert!(!Arc::ptr_eq(&one, &other));
        drop((one, same));
        connections.forget_unused();
        let interned = connections.0.lock().unwrap();
        assert_eq!(interned.iter().collect::<Vec<_>>(), [&other]);
    }
}
