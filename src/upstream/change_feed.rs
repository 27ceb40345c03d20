//! A feed as those who poll use it.
//!
//! Input: the function that subscribes a key to its upstream's feed.
//! Output: [`ChangeFeed`], for pollers and for the workers of work pools.
//! Invariants: polling goes on while the feed is connected, only less often.

use std::time::Duration;

use super::{
    subscription::{SubscriptionGuard, Tenant},
    trigger::Trigger,
};

/// Fires the trigger at each change under the key, until the guard is dropped. The connection counts
/// for the tenant.
pub type SubscribeFn<K> = Box<dyn Fn(&K, &Tenant, Trigger) -> SubscriptionGuard + Send + Sync>;

/// Change notifications of one upstream, for keys of one kind.
pub struct ChangeFeed<K> {
    /// Subscribes a key.
    pub subscribe: SubscribeFn<K>,
    /// Shortest poll interval while the feed is connected.
    pub poll_interval: Duration,
}
