//! What a binding claims of work pools, and what the pools' workers observed.
//!
//! Input: the spec, the recorded entries, and whether the Secret exists.
//! Output: claims, their observations, and the entries to record.
//! Invariants: an entry is claimed as present only if it is recorded, the binding has the finalizer,
//! and the Secret exists.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    controller::{files_secret::files_secret_name, pass::Pass},
    crd::{InjectMode, InjectedEntry, MAX_ENTRIES, MountSpec, WorkPoolSpec, WorkPoolState},
    inject::{
        claim::{Adoption, Claim, Observation, Phase, UsedName, Want},
        template::EntryKey,
    },
    prefect::Connection,
    reason::Reason,
};

/// The claims of a binding on the pools that its spec names.
#[derive(Default)]
pub struct PoolClaims {
    /// For each pool, in the order of the spec, what its worker observed of the entry, and then of the
    /// mount if there is one.
    pub observations: Vec<ObservedClaim>,
    /// The entries to record before they are injected.
    pub to_record: BTreeSet<InjectedEntry>,
}

/// What the worker of a pool observed of one claim.
pub struct ObservedClaim {
    /// Name of the pool.
    pub pool: String,
    /// Whether the claim is of the mount, and not of the entry.
    pub is_mount: bool,
    /// None if the pool was not read yet.
    pub observation: Option<Observation>,
}

impl PoolClaims {
    /// Records nothing more, because the binding has too many entries already.
    pub fn refuse_to_record(&mut self) {
        self.to_record.clear();
        for ObservedClaim {
            pool, observation, ..
        } in &mut self.observations
        {
            let injectable = observation
                .as_mut()
                .filter(|observation| observation.phase == Phase::Injectable);
            if let Some(observation) = injectable {
                observation.phase = Phase::Skipped;
                observation.state = Some(WorkPoolState::NotEditable);
                observation.reason = Reason::PoolNotEditable;
                observation.message = format!(
                    "the operator adds no entry to work pool {pool}: entries of earlier versions of the binding wait for their removal from other pools, and it records at most {MAX_ENTRIES}; status.injectedEntries lists them: let their Prefect servers answer again, or delete the binding"
                );
            }
        }
    }

    /// Whether a pool was not read yet.
    #[must_use]
    pub fn awaits_first_read(&self) -> bool {
        let mut observations = self.observations.iter();
        observations.any(|observed| observed.observation.is_none())
    }

    /// Whether a worker is about to write an entry. It enqueues the binding after that.
    #[must_use]
    pub fn in_progress(&self) -> bool {
        let mut known = self
            .observations
            .iter()
            .filter_map(|observed| observed.observation.as_ref());
        known.any(|observation| {
            matches!(observation.phase, Phase::Injectable | Phase::InProgress)
                && observation.failing_since.is_none()
                && observation.reason == Reason::Pending
        })
    }
}

/// Claims the pools that the spec names. Without a connection, nothing is known of them.
#[must_use]
pub fn declare_claims(
    pass: &Pass<'_>,
    connection: Option<&Arc<Connection>>,
    key_names: &Arc<BTreeSet<String>>,
) -> PoolClaims {
    let pools = &pass.binding.spec.inject.work_pools;
    let mut claims = PoolClaims::default();
    for pool in pools {
        let mount = pool.mount.as_ref().filter(|_| has_files(pass));
        for mount in [None].into_iter().chain(mount.map(Some)) {
            let entry = connection.map(|connection| entry_of(pass, connection, pool, mount));
            let observation = connection
                .zip(entry.as_ref())
                .and_then(|(connection, entry)| {
                    let keys = if mount.is_some() {
                        Arc::default()
                    } else {
                        Arc::clone(key_names)
                    };
                    let claim = claim_of(pass, pool, entry, mount, keys);
                    let pools = &pass.context.pools;
                    pools.declare(pass.key, connection, &pool.name, claim)
                });
            let injectable = observation
                .as_ref()
                .is_some_and(|observation| observation.phase == Phase::Injectable);
            claims.to_record.extend(entry.filter(|entry| {
                let recorded = &pass.entries.recorded.entries;
                injectable && pool.mode() == InjectMode::Patch && !recorded.contains(entry)
            }));
            claims.observations.push(ObservedClaim {
                pool: pool.name.clone(),
                is_mount: mount.is_some(),
                observation,
            });
        }
    }
    claims
}

/// The claim for one entry of the spec.
fn claim_of(
    pass: &Pass<'_>,
    pool: &WorkPoolSpec,
    entry: &InjectedEntry,
    mount: Option<&MountSpec>,
    keys: Arc<BTreeSet<String>>,
) -> Claim {
    let recorded = pass.entries.recorded.entries.contains(entry);
    let exists = pass.secret_exists() && (mount.is_none() || files_exist(pass));
    let patches = pool.mode() == InjectMode::Patch;
    Claim {
        namespace: pass.key.namespace().to_owned(),
        binding: pass.key.name().to_owned(),
        secret: entry.secret.clone(),
        variable: entry.variable.clone(),
        mount: mount.cloned(),
        optional: pool.optional(),
        same_cluster: pool.same_cluster(),
        mode: pool.mode(),
        keys,
        want: if patches && recorded && pass.has_finalizer() && exists {
            Want::Present
        } else {
            Want::Observe
        },
        recorded,
        adoption: if has_sibling(&pass.entries.recorded.entries, entry) {
            Adoption::OfOurShape
        } else {
            Adoption::None
        },
        used_name: UsedName::Stays,
        interval: pass.interval(),
    }
}

fn has_files(pass: &Pass<'_>) -> bool {
    !pass.binding.spec.managed_secret.files.is_empty()
}

/// Whether the Secret with the files exists and belongs to this binding.
pub fn files_exist(pass: &Pass<'_>) -> bool {
    let cached = files_secret_name(pass).and_then(|name| pass.own_secret(&name));
    cached.is_some_and(|cached| !cached.observed.terminating)
}

fn entry_of(
    pass: &Pass<'_>,
    connection: &Connection,
    pool: &WorkPoolSpec,
    mount: Option<&MountSpec>,
) -> InjectedEntry {
    InjectedEntry {
        server: connection.api_url.to_string(),
        pool: pool.name.clone(),
        secret: pass.binding.secret_name().to_owned(),
        variable: pool
            .variable()
            .filter(|_| mount.is_none())
            .map(str::to_owned),
        mount: mount.is_some(),
    }
}

/// Whether a pool of the spec asks for an entry of this kind.
pub fn asks_for(pool: &WorkPoolSpec, variable: Option<&str>, mount: bool) -> bool {
    if mount {
        pool.mount.is_some()
    } else {
        pool.variable() == variable
    }
}

/// Whether another entry for the same Secret, and no mount, is recorded in the pool.
fn has_sibling(recorded: &BTreeSet<InjectedEntry>, entry: &InjectedEntry) -> bool {
    let mut recorded = recorded.iter();
    recorded.any(|other| {
        other != entry
            && !other.mount
            && other.server == entry.server
            && other.pool == entry.pool
            && other.secret == entry.secret
    })
}

/// Drops the claims on pools that neither the spec nor a recorded entry names.
pub fn prune_claims(pass: &Pass<'_>, connection: Option<&Arc<Connection>>) {
    let current = connection.map(|connection| connection.api_url.as_str());
    let (binding, recorded) = (pass.binding, &pass.entries.recorded.entries);
    pass.context.pools.retain(pass.key, &|server, pool, entry| {
        let mut pools = binding.spec.inject.work_pools.iter();
        let in_spec = current.is_none_or(|current| current == server)
            && entry.secret == binding.secret_name()
            && pools.any(|named| {
                named.name == pool && asks_for(named, entry.variable.as_deref(), entry.mount)
            });
        in_spec || is_recorded(recorded, server, pool, entry)
    });
}

/// Whether an entry of these names is recorded.
pub fn is_recorded(
    recorded: &BTreeSet<InjectedEntry>,
    server: &str,
    pool: &str,
    wanted: &EntryKey,
) -> bool {
    let mut recorded = recorded.iter();
    recorded.any(|entry| {
        entry.server == server && entry.pool == pool && EntryKey::from(entry) == *wanted
    })
}
