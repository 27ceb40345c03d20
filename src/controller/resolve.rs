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
    connect::{
        build_connection, check_service, check_text_fields, config_key, key_references,
        override_block, resolve_overrides,
    },
    object_cache::{ObjectKey, ReferenceKind},
    pass::Pass,
    resolution::{LastGood, Resolution, Stage},
};
use crate::{
    crd::PrefectSpec,
    doppler::ConfigKey,
    failure::Failure,
    prefect::{
        BlockKey, Connection,
        block::{BlockFields, Field},
    },
    reason::Reason,
};

/// Wait before a key that the API server did not return is read again.
const KEY_REF_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Resolves the values of a binding.
pub async fn resolve(pass: &Pass<'_>) -> Resolution {
    let mut resolution = Resolution::new(pass.grace_period());
    track_objects(pass);
    if let Err(failure) = check_text_fields(&pass.binding.spec) {
        resolution.record_failure(Stage::Block, failure, Duration::ZERO);
        resolution.last_good = last_good(pass);
        return resolution;
    }
    let overrides = match resolve_key_refs(pass, &mut resolution).await {
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
    // Without a key, the poller goes on with the last config: the block may come back as it was.
    if let Some(key) = resolve_config_key(pass, overrides, &mut resolution) {
        let configs = &pass.context.configs;
        let state = configs.subscribe(pass.key, &key, pass.interval());
        let snapshot = resolution.record_poll(Stage::Config, &state);
        let source = hash_of(&key);
        resolution.last_good = snapshot.map(|snapshot| LastGood {
            source,
            project: key.project,
            config: key.config,
            snapshot,
        });
        resolution.consecutive_reads = state.unchanged_reads;
    }
    if let Some(values) = &resolution.last_good {
        pass.update_state(|state| state.last_good = Some(values.clone()));
    } else if !resolution.pending {
        resolution.last_good = last_good(pass);
        resolution.consecutive_reads = 0;
    }
    resolution
}

fn hash_of(key: &ConfigKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// The last good values of earlier passes.
fn last_good(pass: &Pass<'_>) -> Option<LastGood> {
    pass.read_state(|state| state.last_good.clone())
}

/// Tracks all objects that the binding depends on: a change of one enqueues the binding.
pub fn track_objects(pass: &Pass<'_>) {
    let binding = pass.binding;
    // The newest status, as the other steps read it: a Secret of an earlier name that is still tracked
    // would not count as left.
    let status = pass.last_status();
    let referenced = key_references(binding)
        .into_iter()
        .map(|reference| reference.object);
    let entries = pass.entries.recorded.entries.iter();
    let secrets = std::iter::once(binding.secret_name())
        .chain(entries.map(|entry| entry.secret.as_str()))
        .chain(status.and_then(|status| status.secret_name.as_deref()))
        .map(|name| pass.object(ReferenceKind::Secret, name));
    let objects: HashSet<ObjectKey> = referenced.chain(secrets).collect();
    pass.context.objects.track(pass.key, objects);
}

/// Resolves the keys that the binding references: to the connection in `resolution`, and to the
/// fields that the binding sets itself.
async fn resolve_key_refs(
    pass: &Pass<'_>,
    resolution: &mut Resolution,
) -> Result<BlockFields, Failure> {
    let (context, spec) = (pass.context, &pass.binding.spec);
    if let Some(prefect) = &spec.prefect {
        resolution.connection = Some(connect(pass, prefect).await?);
    }
    let overrides = resolve_overrides(
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

/// Resolves how to reach the binding's Prefect server.
///
/// # Errors
/// As [`build_connection`].
pub async fn connect(pass: &Pass<'_>, prefect: &PrefectSpec) -> Result<Arc<Connection>, Failure> {
    let context = pass.context;
    let connection = build_connection(
        &context.key_refs,
        &context.objects,
        &context.prefect_servers,
        pass.key.namespace(),
        prefect,
    )
    .await?;
    check_service(
        &context.service_types,
        pass.key.namespace(),
        prefect,
        &connection.api_url,
    )
    .await?;
    Ok(context.connections.intern(connection))
}

/// Resolves project, config and token: from the block, unless the binding sets all three. None if
/// the block was never read, or after a failure.
fn resolve_config_key(
    pass: &Pass<'_>,
    overrides: BlockFields,
    resolution: &mut Resolution,
) -> Option<ConfigKey> {
    let (context, spec) = (pass.context, &pass.binding.spec);
    let connection = resolution.connection.clone();
    let overrides_suffice = overrides.missing().is_empty();
    let (fields, from) = match (&spec.prefect, connection) {
        (Some(prefect), Some(connection)) if !overrides_suffice => {
            let key = BlockKey::new(connection, &prefect.block);
            let state = context.blocks.subscribe(pass.key, &key, pass.interval());
            let block = resolution.record_poll(Stage::Block, &state)?;
            if let Some(version) = context.connections.version(&key.connection) {
                resolution.add_block_note(version.note());
            }
            let from = format!("block {}/{} gives", key.type_slug, key.name);
            let fields = block.fields.clone().map_err(Failure::from);
            let policy = context.block_overrides;
            let fields = fields.and_then(|fields| override_block(fields, overrides, policy));
            (fields, from)
        }
        (None, _) if !overrides_suffice => {
            context.blocks.unsubscribe(pass.key);
            resolution.record_failure(Stage::Block, no_source(&overrides), Duration::ZERO);
            return None;
        }
        _ => {
            context.blocks.unsubscribe(pass.key);
            (Ok(overrides), "the binding itself sets".to_owned())
        }
    };
    let fields = fields.and_then(|fields| fields.complete().map_err(Failure::from));
    let fields = match fields {
        Ok(fields) => fields,
        Err(failure) => {
            resolution.record_failure(Stage::Block, failure, Duration::ZERO);
            return None;
        }
    };
    let resolved_from = format!(
        "{from} project {}, config {}",
        fields.project, fields.config
    );
    let (hosts, identities) = (&context.doppler_hosts, &context.identities);
    match config_key(hosts, identities, pass.key, &spec.doppler, fields) {
        Ok(key) => {
            resolution.resolved_from = Some(resolved_from);
            Some(key)
        }
        Err(failure) => {
            resolution.record_failure(Stage::Config, failure, Duration::ZERO);
            None
        }
    }
}

/// The spec names no block, and does not set all three fields. The API server rejects such a spec
/// unless its CRD is of another version.
fn no_source(overrides: &BlockFields) -> Failure {
    let missing: Vec<&str> = overrides
        .missing()
        .into_iter()
        .map(Field::spec_path)
        .collect();
    let message = format!(
        "the spec does not say where the Doppler project, config and token come from: set spec.prefect.server (the operator reads the block there), or also {}",
        missing.join(", ")
    );
    Failure::new(Reason::InvalidSpec, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_without_a_source_is_invalid() {
        let overrides = BlockFields {
            project: Some("my-project".to_owned()),
            ..BlockFields::default()
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
