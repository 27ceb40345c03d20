//! Shares the connections of one feed among tenants.
//!
//! Input: who asks for a connection, and who gives one back.
//! Output: a [`Slot`] for each open connection, and a signal that a slot has to be given back.
//! Invariants: there are never more slots than the maximum. A tenant alone may have all of them;
//! once others wait, a tenant gives back what it has beyond an equal share. Within a tenant the order is
//! first in, first out.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Whose connections are counted together: a namespace.
pub type Tenant = Arc<str>;

/// Pure: who holds a slot, and who waits.
struct Shares<W> {
    max: usize,
    last_id: u64,
    /// Slots by number, so that the latest one of a tenant is given back first.
    held: BTreeMap<u64, Held>,
    waiting: HashMap<Tenant, VecDeque<W>>,
}

struct Held {
    tenant: Tenant,
    is_revoked: bool,
}

impl<W> Shares<W> {
    fn new(max: usize) -> Self {
        Self {
            max,
            last_id: 0,
            held: BTreeMap::new(),
            waiting: HashMap::new(),
        }
    }

    /// A slot, if one is free.
    fn take(&mut self, tenant: &Tenant) -> Option<u64> {
        if self.held.len() >= self.max {
            return None;
        }
        self.last_id += 1;
        let held = Held {
            tenant: Arc::clone(tenant),
            is_revoked: false,
        };
        self.held.insert(self.last_id, held);
        Some(self.last_id)
    }

    /// Queues a waiter. Returns the slot that another tenant has to give back for it.
    fn wait(&mut self, tenant: &Tenant, waiter: W) -> Option<u64> {
        let queue = self.waiting.entry(Arc::clone(tenant)).or_default();
        queue.push_back(waiter);
        self.revoke(tenant)
    }

    /// The slot that has to be given back so that `tenant` gets its share.
    fn revoke(&mut self, tenant: &Tenant) -> Option<u64> {
        let counts = self.counts();
        let count = |tenant: &Tenant| counts.get(tenant).copied().unwrap_or(0);
        // Slots that are being given back go to those who have the fewest.
        let revoked = self.held.values().filter(|held| held.is_revoked).count();
        let (largest, most) = counts.iter().max_by_key(|(_, count)| **count)?;
        if count(tenant) + revoked + 1 >= *most {
            return None;
        }
        let of_largest = self
            .held
            .iter_mut()
            .rev()
            .find(|(_, held)| held.tenant == *largest && !held.is_revoked);
        let (id, held) = of_largest?;
        held.is_revoked = true;
        Some(*id)
    }

    /// How many slots each tenant has and keeps.
    fn counts(&self) -> HashMap<Tenant, usize> {
        let mut counts = HashMap::new();
        for held in self.held.values().filter(|held| !held.is_revoked) {
            *counts.entry(Arc::clone(&held.tenant)).or_default() += 1;
        }
        counts
    }

    /// Gives a slot back. Returns who gets it: the tenant with the fewest slots.
    fn give_back(&mut self, id: u64) -> Option<(W, Tenant)> {
        self.held.remove(&id);
        let counts = self.counts();
        let tenants = self.waiting.iter().filter(|(_, queue)| !queue.is_empty());
        let count = |tenant: &Tenant| counts.get(tenant).copied().unwrap_or(0);
        let next = tenants.min_by_key(|(tenant, _)| (count(tenant), Arc::clone(tenant)));
        let tenant = Arc::clone(next?.0);
        let queue = self.waiting.get_mut(&tenant)?;
        let waiter = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&tenant);
        }
        Some((waiter, tenant))
    }
}

/// The slots of one feed.
pub(super) struct Slots(Mutex<SlotState>);

struct SlotState {
    shares: Shares<oneshot::Sender<Slot>>,
    revoked: HashMap<u64, CancellationToken>,
}

/// The right to have one connection open, until it is dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    id: u64,
    revoked: CancellationToken,
}

impl Slots {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(SlotState {
            shares: Shares::new(max),
            revoked: HashMap::new(),
        })))
    }

    /// A slot if one is free, or else the wait for one.
    pub(super) fn acquire(
        self: &Arc<Self>,
        tenant: &Tenant,
    ) -> Result<Slot, impl Future<Output = Option<Slot>> + Send + use<>> {
        let mut state = self.0.lock();
        if let Some(id) = state.shares.take(tenant) {
            return Ok(self.slot(&mut state, id));
        }
        let (sender, receiver) = oneshot::channel();
        if let Some(id) = state.shares.wait(tenant, sender)
            && let Some(revoked) = state.revoked.get(&id)
        {
            revoked.cancel();
        }
        Err(async move { receiver.await.ok() })
    }

    fn slot(self: &Arc<Self>, state: &mut SlotState, id: u64) -> Slot {
        let revoked = CancellationToken::new();
        state.revoked.insert(id, revoked.clone());
        Slot {
            slots: Arc::clone(self),
            id,
            revoked,
        }
    }
}

impl Slot {
    /// Waits until another tenant needs the slot.
    pub(super) async fn revoked(&self) {
        self.revoked.cancelled().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.0.lock();
        state.revoked.remove(&self.id);
        while let Some((waiter, tenant)) = state.shares.give_back(self.id) {
            if waiter.is_closed() {
                // The waiter has gone: the next one gets the slot.
                continue;
            }
            let Some(id) = state.shares.take(&tenant) else {
                return;
            };
            let slot = self.slots.slot(&mut state, id);
            drop(state);
            // If the waiter has gone meanwhile, the slot is dropped here, and goes to the next one.
            let _ = waiter.send(slot);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tenant(name: u8) -> Tenant {
        name.to_string().into()
    }

    #[tokio::test]
    async fn a_tenant_alone_gets_all_and_a_later_one_its_share() {
        let slots = Slots::new(4);
        let first = tenant(1);
        let mut held: Vec<_> = (0..4)
            .map(|_| slots.acquire(&first).ok().unwrap())
            .collect();
        let more = slots.acquire(&first).err().unwrap();
        let later = slots.acquire(&tenant(2)).err().unwrap();
        // The latest slot of the largest tenant is revoked, and goes to the later one.
        let revoked = held.pop().unwrap();
        revoked.revoked().await;
        drop(revoked);
        let later = later.await.unwrap();
        let second = slots.acquire(&tenant(2)).err().unwrap();
        let revoked = held.pop().unwrap();
        revoked.revoked().await;
        drop(revoked);
        let second = second.await.unwrap();
        let third = slots.acquire(&tenant(2)).err().unwrap();
        assert!(held.iter().all(|slot| !slot.revoked.is_cancelled()));
        // A waiter that has gone is passed over.
        drop(third);
        drop((later, second));
        assert!(more.await.is_some());
    }

    #[test]
    fn no_slot_at_all_is_an_endless_wait() {
        let slots = Slots::new(0);
        assert!(slots.acquire(&tenant(1)).is_err());
    }

    proptest! {
        /// Once everything revoked is given back, no tenant that waits has two fewer than another.
        #[test]
        fn shares_are_equal_up_to_one(
            max in 1_usize..12,
            steps in prop::collection::vec((0_u8..5, any::<bool>()), 1..200),
        ) {
            let mut shares = Shares::new(max);
            for (index, (name, is_release)) in steps.into_iter().enumerate() {
                let name = tenant(name);
                let mut to_give_back = VecDeque::new();
                if is_release {
                    let held = shares.held.iter().find(|(_, held)| held.tenant == name);
                    to_give_back.extend(held.map(|(id, _)| *id));
                } else if shares.take(&name).is_none() {
                    to_give_back.extend(shares.wait(&name, index));
                }
                while let Some(id) = to_give_back.pop_front() {
                    let revoked = shares.held.get(&id).map(|held| (held.is_revoked, Arc::clone(&held.tenant)));
                    if let Some((_, tenant)) = shares.give_back(id) {
                        prop_assert!(shares.take(&tenant).is_some());
                    }
                    // A connection whose slot was revoked waits for another one.
                    if let Some((true, tenant)) = revoked {
                        prop_assert_eq!(shares.wait(&tenant, index), None, "it would go on for ever");
                    }
                }
                prop_assert!(shares.held.len() <= max);
                let counts = shares.counts();
                let count = |tenant: &Tenant| counts.get(tenant).copied().unwrap_or(0);
                let most = counts.values().max().copied().unwrap_or(0);
                for (tenant, queue) in &shares.waiting {
                    prop_assert!(queue.is_empty() || count(tenant) + 1 >= most || is_release,
                        "{tenant} has {} of {most}", count(tenant));
                }
                if !shares.waiting.is_empty() {
                    prop_assert_eq!(shares.held.len(), max);
                }
            }
        }
    }
}
