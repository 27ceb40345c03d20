//! Resolves a binding: block → config → last good values.
//!
//! Input: a binding.
//! Output: a [`Resolution`].
//! Invariants: pollers read the upstreams, and enqueue the binding when an answer arrives. The only
//! request that this module waits for is the first read of a referenced key.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    cluster_servers::Unusable,
    config_sources::{Overrides, all_token_references, config_keys, of_config, resolved_text},
    connect::{
        build_connection, check_service, check_text_fields, config_key, doppler_host,
        server_references,
    },
    files_secret::files_secret_names,
    object_cache::{ObjectKey, ReferenceKind},
    pass::Pass,
    prefect_server::{self, PrefectServer},
    resolution::{ConfigValues, LastGood, Resolution, Stage},
};
use crate::{
    crd::ConfigSource,
    doppler::{ConfigKey, Snapshot},
    failure::Failure,
    prefect::{
        BlockKey, Connection,
        block::{BlockFields, Field},
    },
    reason::{Class, Reason},
    upstream::poller::PollState,
};

/// Wait before a key that the API server did not return is read again.
const KEY_REF_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Resolves the values of a binding.
pub async fn resolve(pass: &Pass<'_>) -> Resolution {
    let mut resolution = Resolution::new(pass.grace_period());
    let server = server_of(pass);
    track_objects(pass, server.as_ref().ok().and_then(Option::as_ref));
    if let Err(failure) = check_text_fields(&pass.binding.spec) {
        resolution.record_failure(Stage::Block, failure, Duration::ZERO);
        resolution.last_good = last_good(pass);
        return resolution;
    }
    let server = match server {
        Ok(server) => server,
        Err(Unusable::Pending) => {
            resolution.pending = true;
            resolution.last_good = last_good(pass);
            return resolution;
        }
        Err(Unusable::Failed(failure)) => {
            stop_requests(pass);
            resolution.record_failure(Stage::Block, failure, Duration::ZERO);
            resolution.last_good = last_good(pass);
            return resolution;
        }
    };
    let overrides = match resolve_key_refs(pass, server.as_ref(), &mut resolution).await {
        Ok(overrides) => overrides,
        Err(failure) => {
            let failing_for = pass.update_state(|state| {
                let since = &mut state.key_refs_failing_since;
                since.get_or_insert_with(Instant::now).elapsed()
            });
            if failure.reason == Reason::HostNotAllowed {
                // A Service may have become an ExternalName: stop reading from it.
                pass.context.blocks.unsubscribe(pass.key);
                pass.context.pools.remove_binding(pass.key);
            }
            resolution.record_failure(Stage::Block, failure, failing_for);
            resolution.requeue.after(KEY_REF_RETRY_INTERVAL);
            resolution.last_good = last_good(pass);
            return resolution;
        }
    };
    // Without keys, the pollers go on with the last configs: the block may come back as it was.
    if let Some(keys) = resolve_config_keys(pass, &overrides, &mut resolution) {
        read_configs(pass, keys, &mut resolution);
    }
    if let Some(values) = &resolution.last_good {
        pass.update_state(|state| state.last_good = Some(values.clone()));
    } else if !resolution.pending || resolution.failure.is_some() {
        resolution.last_good = last_good(pass);
        resolution.consecutive_reads = 0;
    }
    resolution
}

/// The Prefect server of the binding, if it names one that it may use.
///
/// # Errors
/// If it may not, or there is none.
pub fn server_of(pass: &Pass<'_>) -> Result<Option<PrefectServer>, Unusable> {
    prefect_server::of_binding(&pass.context.cluster_servers, pass.key, &pass.binding.spec)
}

/// Stops all requests for the binding: it may not use its server any more, or nothing says how to
/// reach it. The Doppler token may come from a block of that server.
fn stop_requests(pass: &Pass<'_>) {
    let context = pass.context;
    context.blocks.unsubscribe(pass.key);
    context.configs.unsubscribe(pass.key);
    context.pools.remove_binding(pass.key);
    context.runs.remove(pass.key);
}

/// Reads the values of the configs from their pollers. Of several configs, there are no newer values
/// before each has been read, and while one fails: the Secret never holds a part of them.
fn read_configs(pass: &Pass<'_>, keys: Vec<ConfigKey>, resolution: &mut Resolution) {
    let configs = &pass.context.configs;
    let states = configs.subscribe_all(pass.key, &keys, pass.interval());
    let items = &pass.binding.spec.doppler.configs;
    record_failures(items, &keys, &states, resolution);
    let mut snapshots = Vec::with_capacity(states.len());
    for state in &states {
        snapshots.extend(resolution.record_answer(Stage::Config, state));
    }
    let source = hash_of(&keys);
    let one_fails = states.iter().any(|state| state.failure.is_some());
    if snapshots.len() < keys.len() || (one_fails && !items.is_empty()) {
        return;
    }
    let reads = states.iter().map(|state| state.unchanged_reads);
    resolution.consecutive_reads = reads.min().unwrap_or_default();
    let items = items
        .iter()
        .map(|item| Some(Box::new(item.clone())))
        .chain([None]);
    let values = keys.into_iter().zip(snapshots).zip(items);
    let values = values.map(|((key, snapshot), item)| ConfigValues {
        project: key.project,
        config: key.config,
        item,
        snapshot,
    });
    resolution.last_good = Some(LastGood {
        configs: values.collect(),
        source,
    });
}

/// Records the failures of the configs, those that need a change first. The message names the config,
/// if there are several.
fn record_failures(
    items: &[ConfigSource],
    keys: &[ConfigKey],
    states: &[PollState<Snapshot>],
    resolution: &mut Resolution,
) {
    let now = Instant::now();
    let failing = keys.iter().zip(states).enumerate();
    let failing = failing.filter_map(|(at, (key, state))| {
        let failure = state.failure.as_ref()?;
        let failure = if items.is_empty() {
            failure.clone()
        } else {
            of_config(failure, at, key)
        };
        Some((failure, state.failing_for(now)))
    });
    let needs_change =
        |(failure, _): &(Failure, Duration)| failure.reason.class() == Class::WaitForChange;
    let (first, others): (Vec<_>, Vec<_>) = failing.partition(needs_change);
    for (failure, failing_for) in first.into_iter().chain(others) {
        resolution.record_failure(Stage::Config, failure, failing_for);
    }
}

fn hash_of(keys: &[ConfigKey]) -> u64 {
    let mut hasher = DefaultHasher::new();
    keys.hash(&mut hasher);
    hasher.finish()
}

/// The last good values of earlier passes.
fn last_good(pass: &Pass<'_>) -> Option<LastGood> {
    pass.read_state(|state| state.last_good.clone())
}

/// Tracks all objects that the binding depends on: a change of one enqueues the binding.
pub fn track_objects(pass: &Pass<'_>, server: Option<&PrefectServer>) {
    let binding = pass.binding;
    let namespace = pass.key.namespace();
    // The newest status, as the other steps read it: a Secret of an earlier name that is still tracked
    // would not count as left.
    let status = pass.last_status();
    let of_server = server.map(|server| server_references(server, namespace));
    let of_server = of_server.into_iter().flatten();
    let referenced = all_token_references(namespace, &binding.spec.doppler)
        .into_iter()
        .chain(of_server.map(|(_, reference)| reference))
        .map(|reference| reference.object);
    let entries = pass.entries.recorded.entries.iter();
    let secrets = std::iter::once(binding.secret_name())
        .chain(entries.map(|entry| entry.secret.as_str()))
        .chain(status.and_then(|status| status.secret_name.as_deref()))
        .map(str::to_owned)
        .chain(files_secret_names(pass))
        .map(|name| pass.object(ReferenceKind::Secret, name));
    let objects: HashSet<ObjectKey> = referenced.chain(secrets).collect();
    pass.context.objects.track(pass.key, objects);
}

/// Resolves the keys that the binding references: to the connection in `resolution`, and to the
/// fields that the binding sets itself.
async fn resolve_key_refs(
    pass: &Pass<'_>,
    server: Option<&PrefectServer>,
    resolution: &mut Resolution,
) -> Result<Overrides, Failure> {
    let (context, spec) = (pass.context, &pass.binding.spec);
    if let Some(server) = server {
        resolution.connection = Some(connect(pass, server).await?);
    }
    let overrides = Overrides::resolve(
        &context.key_refs,
        &context.objects,
        pass.key.namespace(),
        &spec.doppler,
    )
    .await?;
    pass.update_state(|state| {
        state.key_refs_failing_since = None;
        if let Some(connection) = &resolution.connection {
            let others = &mut state.connections;
            others.retain(|other| other.api_url != connection.api_url);
            others.push(Arc::clone(connection));
        }
    });
    Ok(overrides)
}

/// Resolves how to reach a Prefect server of the binding.
///
/// # Errors
/// As [`build_connection`].
pub async fn connect(pass: &Pass<'_>, server: &PrefectServer) -> Result<Arc<Connection>, Failure> {
    let context = pass.context;
    let connection = build_connection(
        &context.key_refs,
        &context.objects,
        &context.prefect_servers,
        pass.key.namespace(),
        server,
    )
    .await?;
    check_service(
        &context.service_types,
        pass.key.namespace(),
        server,
        &connection.api_url,
    )
    .await
    .map_err(|error| server.explain(error.into()))?;
    Ok(context.connections.intern(connection))
}

/// Resolves project, config and token of each config: from the block, unless the binding sets them
/// all. None if the block was never read, or after a failure.
fn resolve_config_keys(
    pass: &Pass<'_>,
    overrides: &Overrides,
    resolution: &mut Resolution,
) -> Option<Vec<ConfigKey>> {
    let (context, spec) = (pass.context, &pass.binding.spec);
    let connection = resolution.connection.clone();
    let overrides_suffice = overrides.missing().is_empty();
    let (block, from) = match (&spec.prefect, connection) {
        (Some(prefect), Some(connection)) if !overrides_suffice => {
            if let Err(failure) = check_block(pass, &connection, &prefect.block.name) {
                context.blocks.unsubscribe(pass.key);
                resolution.record_failure(Stage::Block, failure, Duration::ZERO);
                return None;
            }
            let key = BlockKey::new(connection, &prefect.block);
            let state = context.blocks.subscribe(pass.key, &key, pass.interval());
            let block = resolution.record_poll(Stage::Block, &state)?;
            if let Some(version) = context.connections.version(&key.connection) {
                resolution.add_block_note(version.note());
            }
            let from = format!("block {}/{} gives", key.type_slug, key.name);
            (block.fields.clone().map_err(Failure::from), from)
        }
        (None, _) if !overrides_suffice => {
            context.blocks.unsubscribe(pass.key);
            resolution.record_failure(Stage::Block, no_source(overrides), Duration::ZERO);
            return None;
        }
        _ => {
            context.blocks.unsubscribe(pass.key);
            (
                Ok(BlockFields::default()),
                "the binding itself sets".to_owned(),
            )
        }
    };
    let (hosts, identities) = (&context.doppler_hosts, &context.identities);
    let key_of = |fields| config_key(hosts, identities, pass.key, &spec.doppler, fields);
    let policy = context.block_overrides;
    let keys =
        block.and_then(|block| config_keys(&spec.doppler, &block, overrides, policy, key_of));
    match keys {
        Ok(keys) => {
            let resolved = resolved_text(&spec.doppler, &from, &keys);
            resolution.resolved_from = Some(resolved);
            Some(keys)
        }
        Err(failure) => {
            let stage = match doppler_host(hosts, spec.doppler.host.as_deref()) {
                Ok(_) => Stage::Block,
                Err(_) => Stage::Config,
            };
            resolution.record_failure(stage, failure, Duration::ZERO);
            None
        }
    }
}

/// Checks a block right before it is read with a shared connection. The spec was checked before, but it
/// does not show that the Secret of a token is empty, and then the block is read for it.
fn check_block(pass: &Pass<'_>, connection: &Connection, block: &str) -> Result<(), Failure> {
    let Some(name) = &connection.shared else {
        return Ok(());
    };
    let servers = &pass.context.cluster_servers;
    Ok(servers.check_block(name, pass.key.namespace(), block)?)
}

/// The spec names no block, and does not set all three fields. The API server rejects such a spec
/// unless its CRD is of another version.
fn no_source(overrides: &Overrides) -> Failure {
    let missing: Vec<&str> = overrides
        .missing()
        .into_iter()
        .map(Field::spec_path)
        .collect();
    let message = format!(
        "the spec does not say where the Doppler project, config and token come from: set spec.prefect.server or spec.prefect.serverRef (the operator reads the block there), or also {}",
        missing.join(", ")
    );
    Failure::new(Reason::InvalidSpec, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_without_a_source_is_invalid() {
        let overrides = Overrides {
            fields: BlockFields {
                project: Some("my-project".to_owned()),
                ..BlockFields::default()
            },
            tokens: Vec::new(),
        };
        let failure = no_source(&overrides);
        assert_eq!(failure.reason, Reason::InvalidSpec);
        assert!(
            failure
                .message
                .ends_with("or also spec.doppler.config, spec.doppler.accessToken"),
            "{}",
            failure.message
        );
    }
}
