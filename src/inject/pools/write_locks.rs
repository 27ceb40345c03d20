//! One reconcile at a time for each pool of a server, whatever the credentials.
//!
//! Input: the URL of a server, and the name of a pool.
//! Output: a lock that all workers of that pool share.
//! Invariants: Prefect's PATCH replaces the whole template without a condition, so two workers that
//! read and write at the same time would lose each other's entries. A lock that no worker holds or
//! waits for takes no memory.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::registry::PoolKey;
use crate::prefect::connection::canonical_api;

type Lock = tokio::sync::Mutex<()>;

/// The locks in use, by server and pool.
#[derive(Default)]
pub(super) struct WriteLocks(Mutex<HashMap<(String, String), Weak<Lock>>>);

impl WriteLocks {
    /// The lock of a pool.
    pub(super) fn of(&self, pool_key: &PoolKey) -> Arc<Lock> {
        let server = canonical_api(&pool_key.connection.api_url);
        let key = (server, pool_key.pool.clone());
        let mut locks = self.0.lock();
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(Lock::default());
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }
}
