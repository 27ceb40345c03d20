//! Equal connections as one: thousands of bindings reach a server in the same way, and a connection may hold a bundle of certificates.
//!
//! In: a [`Connection`]. Out: the one that all share who reach the same server in the same way. One that nobody has any more goes, and its credentials
//! with it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use super::connection::Connection;

/// The connections in use.
#[derive(Default)]
pub struct Connections(Mutex<HashSet<Arc<Connection>>>);

impl Connections {
    /// The connection that equals this one.
    pub fn share(&self, connection: Connection) -> Arc<Connection> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = known.get(&connection) {
            return Arc::clone(shared);
        }
        forget_unused(&mut known);
        let shared = Arc::new(connection);
        known.insert(Arc::clone(&shared));
        shared
    }

    /// Lets go of those that nobody has any more. [`Connections::share`] does so too; this is for when there are no new ones.
    pub fn forget_unused(&self) {
        forget_unused(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn forget_unused(known: &mut HashSet<Arc<Connection>>) {
    known.retain(|connection| Arc::strong_count(connection) > 1);
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
    fn equal_ones_are_one_until_nobody_has_it() {
        let connections = Connections::default();
        let (one, same) = (
            connections.share(connection("a")),
            connections.share(connection("a")),
        );
        assert!(Arc::ptr_eq(&one, &same));
        let other = connections.share(connection("b"));
        assert!(!Arc::ptr_eq(&one, &other));
        drop((one, same));
        connections.forget_unused();
        let known = connections.0.lock().unwrap();
        assert_eq!(known.iter().collect::<Vec<_>>(), [&other]);
    }
}
