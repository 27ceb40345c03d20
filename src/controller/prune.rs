//! What the spec no longer asks for: old pool entries, old Secrets, old claims.
//!
//! In: the note, and what the pools are known to be. Out: entries withdrawn, Secrets of old names removed, once nothing refers to them. The new comes
//! before the old goes.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{
    apply_secret::secret_exists,
    cleanup,
    context::Context,
    finalizer::{self, InjectedEntry},
    injection::{self, PoolClaims},
    requeue::soonest,
    resolution::Resolution,
    work_queue::BindingRef,
};
use crate::crd::{DopplerPrefectBinding, DopplerPrefectBindingStatus};

/// Takes out what the spec no longer asks for; `held` loses what is out and over.
pub(super) fn prune_entries(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    followed: &Resolution,
    noted: &BTreeSet<InjectedEntry>,
    looked: &PoolClaims,
    held: &mut BTreeSet<InjectedEntry>,
) -> Option<Duration> {
    let connection = followed.connection.as_ref();
    let mut again = None;
    for entry in injection::stale_entries(binding, connection, noted) {
        if entry.secret != binding.secret_name()
            && !replaced(&entry, connection.map(|c| c.api_url.as_str()), looked)
        {
            continue;
        }
        if injection::withdraw(context, binding, who, connection, &entry)
            != injection::Withdrawal::Done
        {
            continue;
        }
        let since = context.states.update(who, |remembered| {
            *remembered
                .removed_since
                .entry(entry.clone())
                .or_insert_with(Instant::now)
        });
        let wait = context
            .settings
            .release_wait
            .saturating_sub(since.elapsed());
        if entry.secret == binding.secret_name() || wait.is_zero() {
            held.remove(&entry);
        } else {
            again = soonest(again, Some(wait));
        }
    }
    again
}

/// Whether the pool of an entry of an old name has the entry of the new name, or cannot have it: only then the old one may go.
fn replaced(entry: &InjectedEntry, server: Option<&str>, looked: &PoolClaims) -> bool {
    use crate::inject::claim::Phase;
    if server != Some(entry.server.as_str()) {
        return true;
    }
    let found = looked
        .observations
        .iter()
        .find(|(pool, _)| *pool == entry.pool);
    found.is_none_or(|(_, finding)| {
        finding
            .as_ref()
            .is_some_and(|finding| matches!(finding.phase, Phase::Injected | Phase::Skipped))
    })
}

/// After a rename the old Secret goes, once no pool refers to it.
pub(super) async fn delete_renamed_secret(
    context: &Context,
    binding: &DopplerPrefectBinding,
    before: Option<&DopplerPrefectBindingStatus>,
    held: &BTreeSet<InjectedEntry>,
) -> Option<Duration> {
    let names: BTreeSet<String> = before
        .and_then(|status| status.secret_name.clone())
        .into_iter()
        .chain(
            finalizer::injected_entries(binding)
                .into_iter()
                .map(|entry| entry.secret),
        )
        .filter(|name| {
            name != binding.secret_name() && !held.iter().any(|entry| entry.secret == *name)
        })
        .collect();
    let mut again = None;
    if !secret_exists(context, binding) {
        return again;
    }
    for name in names {
        if cleanup::delete_secret(context, binding, &name)
            .await
            .is_err()
        {
            again = Some(Duration::from_secs(5));
        }
    }
    again
}

/// Claims of pools that neither the spec nor the note names any more are dropped.
pub(super) fn prune_claims(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    followed: &Resolution,
    noted: &BTreeSet<InjectedEntry>,
) {
    let server = followed
        .connection
        .as_ref()
        .map(|connection| connection.api_url.to_string());
    context.pools.retain(who, &|at, pool, secret| {
        let asked = binding
            .spec
            .inject
            .work_pools
            .iter()
            .any(|named| named.name == pool)
            && secret == binding.secret_name();
        let current = server.as_deref().is_none_or(|server| server == at);
        (asked && current)
            || noted
                .iter()
                .any(|entry| entry.server == at && entry.pool == pool && entry.secret == secret)
    });
}
