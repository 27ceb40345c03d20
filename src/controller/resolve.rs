//! Binding → block → config: what Doppler last gave for a binding, and what stands in the way of newer values.
//!
//! In: a binding. Out: [`Resolution`]. Upstreams are asked by the sources, not here: this waits for nothing but references that were never read,
//! and what is not known yet wakes the binding when it is.

use std::{collections::HashSet, sync::Arc, time::Duration};

use kube::ResourceExt;
use tokio::time::Instant;

use super::{
    connect::{connect, doppler_host, failure, referenced_keys, trimmed},
    context::{BlockKey, Context},
    object_cache::{ObjectKey, ReferenceKind},
    resolution::{LastGood, Resolution, Stage},
    work_queue::BindingRef,
};
use crate::{
    crd::DopplerPrefectBinding,
    doppler::ConfigKey,
    failure::Failure,
    prefect::block::{BlockError, BlockFields, Field},
    reason::Reason,
};

/// Wait before references that the API server did not give are read again.
const REFERENCE_RETRY: Duration = Duration::from_secs(5);

/// What the binding refers to cannot be read, and since when.
struct Stop(Failure, Duration);
/// The way ends before an upstream is asked: only a change by somebody leads on.
struct End(Stage, Failure);

/// Follows the way of a value up to Doppler.
pub async fn resolve(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
) -> Resolution {
    let interval = binding
        .spec
        .interval()
        .unwrap_or(context.settings.refresh_interval);
    let patience = context.settings.stale_after.max(interval * 2);
    let mut followed = Resolution::default();
    track_objects(context, binding, who);
    let overrides = match resolve_key_refs(context, binding, who, &mut followed).await {
        Ok(overrides) => overrides,
        Err(Stop(failure, failing_for)) => {
            followed.record_failure(Stage::Block, failure, failing_for, patience);
            followed.requeue_after = Some(
                followed
                    .requeue_after
                    .unwrap_or(REFERENCE_RETRY)
                    .min(REFERENCE_RETRY),
            );
            followed.last_good = last_good(context, who);
            return followed;
        }
    };
    let coordinates = config_key(
        context,
        binding,
        who,
        overrides,
        interval,
        patience,
        &mut followed,
    )
    .unwrap_or_else(|End(stage, failure)| {
        followed.record_failure(stage, failure, Duration::ZERO, patience);
        None
    });
    // Without coordinates the config that was read before goes on being read: the block may come back as it was.
    if let Some(coordinates) = coordinates {
        let reading = context.configs.subscribe(who, &coordinates, interval);
        let value = followed.record_poll(Stage::Config, &reading, patience);
        followed.last_good = value.map(|snapshot| LastGood {
            project: coordinates.project,
            config: coordinates.config,
            snapshot,
        });
        followed.consecutive_reads = reading.unchanged_reads;
    }
    if let Some(last) = &followed.last_good {
        context
            .states
            .update(who, |remembered| remembered.last_good = Some(last.clone()));
    } else if !followed.pending {
        followed.last_good = last_good(context, who);
        followed.consecutive_reads = 0;
    }
    followed
}

/// The last good values that are remembered.
fn last_good(context: &Context, who: &BindingRef) -> Option<LastGood> {
    context
        .states
        .read(who, |remembered| remembered.last_good.clone())
}

/// Has the watches keep and tell what the binding names.
fn track_objects(context: &Context, binding: &DopplerPrefectBinding, who: &BindingRef) {
    let mut keys: HashSet<ObjectKey> = referenced_keys(binding)
        .into_iter()
        .map(|(key, ..)| key)
        .collect();
    let namespace = binding.namespace().unwrap_or_default();
    let secrets = std::iter::once(binding.secret_name().to_owned())
        .chain(
            super::finalizer::injected_entries(binding)
                .into_iter()
                .map(|noted| noted.secret),
        )
        .chain(
            binding
                .status
                .as_ref()
                .and_then(|status| status.secret_name.clone()),
        );
    keys.extend(secrets.map(|name| ObjectKey {
        kind: ReferenceKind::Secret,
        namespace: namespace.clone(),
        name,
    }));
    context.objects.track(who, keys);
}

/// Reads what the binding refers to: the connection, and the fields that the binding gives itself.
async fn resolve_key_refs(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    followed: &mut Resolution,
) -> Result<BlockFields, Stop> {
    let since = |failure: Failure| {
        let failing_for = context.states.update(who, |remembered| {
            let since = remembered
                .key_refs_failing_since
                .get_or_insert_with(Instant::now);
            since.elapsed()
        });
        Stop(failure, failing_for)
    };
    if let Some(prefect) = &binding.spec.prefect {
        followed.connection = Some(connect(context, binding, prefect).await.map_err(since)?);
    }
    let spec = &binding.spec.doppler;
    let mut overrides = BlockFields {
        project: spec.project.clone(),
        config: spec.config.clone(),
        access_token: None,
    };
    if let Some(token) = &spec.access_token {
        let at = &token.value_from.secret_key_ref;
        let object = ObjectKey {
            kind: ReferenceKind::Secret,
            namespace: binding.namespace().unwrap_or_default(),
            name: at.name.clone(),
        };
        let text = context
            .key_refs
            .resolve(
                &context.objects,
                &object,
                &at.key,
                "spec.doppler.accessToken",
            )
            .await;
        let text = text.map_err(|error| since(failure(error.reason(), &error)))?;
        overrides.access_token = Some(trimmed(&text));
    }
    context.states.update(who, |remembered| {
        remembered.key_refs_failing_since = None;
        if let Some(connection) = &followed.connection {
            let others = &mut remembered.connections;
            others.retain(|other| other.api_url != connection.api_url);
            others.push(Arc::clone(connection));
        }
    });
    Ok(overrides)
}

/// Project, config and token: from the block, unless the binding gives all three. None while the block was never read.
fn config_key(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    overrides: BlockFields,
    interval: Duration,
    patience: Duration,
    followed: &mut Resolution,
) -> Result<Option<ConfigKey>, End> {
    let spec = &binding.spec.doppler;
    let block_end = |error: BlockError| End(Stage::Block, failure(error.reason(), &error));
    let given = overrides.missing().is_empty();
    let (fields, from) = match (&binding.spec.prefect, &followed.connection) {
        (Some(prefect), Some(connection)) if !given => {
            let key = BlockKey::new(Arc::clone(connection), &prefect.block);
            let reading = context.blocks.subscribe(who, &key, interval);
            let Some(block) = followed.record_poll(Stage::Block, &reading, patience) else {
                return Ok(None);
            };
            let fields = block
                .fields(prefect.block.pointer.as_deref())
                .map_err(block_end)?;
            (
                fields.overridden_by(overrides),
                format!("block {}/{} gives", key.type_slug, key.name),
            )
        }
        (None, _) if !given => {
            context.blocks.unsubscribe(who);
            return Err(End(Stage::Block, no_source(&overrides)));
        }
        _ => {
            context.blocks.unsubscribe(who);
            (overrides, "the binding itself gives".to_owned())
        }
    };
    let complete = fields.complete().map_err(block_end)?;
    let host = doppler_host(&context.doppler_hosts, spec.host.as_deref())
        .map_err(|failure| End(Stage::Config, failure))?;
    followed.resolved_from = Some(format!(
        "{from} project {}, config {}",
        complete.project, complete.config
    ));
    Ok(Some(ConfigKey {
        host,
        token: complete.access_token,
        project: complete.project,
        config: complete.config,
        transformer: spec.name_transformer,
    }))
}

/// No block, and not all of the three fields: the API server refuses such a spec, unless its rules are not those of this version.
fn no_source(overrides: &BlockFields) -> Failure {
    let missing: Vec<&str> = overrides
        .missing()
        .into_iter()
        .map(Field::spec_path)
        .collect();
    Failure {
        reason: Reason::InvalidSpec,
        message: format!(
            "nothing says where the Doppler project, config and token come from: give spec.prefect.server (the block is read there), or also {}",
            missing.join(", ")
        ),
        retry_after: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_without_block_and_without_all_three_fields_is_told_invalid_with_what_lacks() {
        let overrides = BlockFields {
            project: Some("my-project".to_owned()),
            ..BlockFields::default()
        };
        let fault = no_source(&overrides);
        assert_eq!(fault.reason, Reason::InvalidSpec);
        assert!(
            fault
                .message
                .ends_with("or also spec.doppler.config, spec.doppler.accessToken"),
            "{}",
            fault.message
        );
    }
}
