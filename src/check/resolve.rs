//! Resolves a binding: the block, the config and the Secret that they give.
//!
//! Input: a binding.
//! Output: the [`Resolved`] Secret, and findings on the way.
//! Invariants: reads with the controller's own functions; findings name keys, never values.

use std::sync::Arc;

use kube::ResourceExt;

use super::{context::CheckContext, findings::Findings};
use crate::{
    controller::{
        connect::{self, build_connection, check_service, override_block, resolve_overrides},
        service_types::ServiceError,
    },
    crd::{BindingRef, DopplerPrefectBinding},
    doppler::{ConfigKey, Download, Snapshot},
    prefect::{Connection, block::BlockFields},
    printable::count,
    secret::{Desired, DesiredInput, desired},
    upstream::limiter::ReadRequest,
};

/// The result of resolving a binding.
pub(crate) struct Resolved {
    /// The connection to the Prefect server.
    pub connection: Option<Arc<Connection>>,
    /// The Secret that the operator would write.
    pub desired: Desired,
}

/// Resolves block and config, and adds what the Secret would hold. `None` after a failure. The token of
/// an identity is revoked, because this process reads the config once.
pub(super) async fn resolve(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    findings: &mut Findings,
) -> Option<Resolved> {
    let resolved = read(context, binding, findings).await;
    context.revoke_tokens().await;
    resolved
}

async fn read(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    findings: &mut Findings,
) -> Option<Resolved> {
    let connection = match &binding.spec.prefect {
        Some(_) => Some(connect(context, binding, findings).await?),
        None => None,
    };
    let overrides = overrides(context, binding, findings).await?;
    let fields = match &connection {
        Some(connection) if !overrides.missing().is_empty() => {
            let block = read_block(context, binding, connection, findings).await?;
            match override_block(block, overrides, context.block_overrides) {
                Ok(fields) => fields,
                Err(failure) => {
                    let text = format!("{}: {}", failure.reason, failure.message);
                    findings.fail("block", &text);
                    return None;
                }
            }
        }
        _ => overrides,
    };
    let config = config_key(context, binding, fields, findings)?;
    let snapshot = match context
        .doppler
        .download(&config, None, &ReadRequest::interactive())
        .await
    {
        Ok(Download::Changed(snapshot)) => snapshot,
        Ok(Download::Unchanged) => return None,
        Err(error) => {
            findings.fail("Doppler", &format!("{}: {error}", error.reason()));
            return None;
        }
    };
    let desired = desired_secret(context, binding, &config, &snapshot, findings)?;
    Some(Resolved {
        connection,
        desired,
    })
}

async fn connect(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    findings: &mut Findings,
) -> Option<Arc<Connection>> {
    let namespace = binding.namespace().unwrap_or_default();
    let prefect = binding.spec.prefect.as_ref()?;
    let connection = build_connection(
        &context.key_refs,
        &context.objects,
        &context.hosts.prefect,
        &namespace,
        prefect,
    )
    .await;
    if let Ok(connection) = &connection {
        let url = &connection.api_url;
        match check_service(&context.service_types, &namespace, prefect, url).await {
            Ok(()) => {}
            // The permissions are those of the user, not those of the operator.
            Err(error @ (ServiceError::Forbidden(_) | ServiceError::Unreachable(_))) => {
                findings.note("Prefect", &format!("not checked here: {error}"));
            }
            Err(error) => {
                findings.fail("Prefect", &format!("{}: {error}", error.reason()));
                return None;
            }
        }
    }
    match connection {
        Ok(connection) => Some(context.connections.intern(match &context.prefect_api_url {
            // The address at which this machine reaches the server.
            Some(url) => Connection {
                api_url: url.clone(),
                ..connection
            },
            None => connection,
        })),
        Err(failure) => {
            findings.fail(
                "Prefect",
                &format!("{}: {}", failure.reason, failure.message),
            );
            None
        }
    }
}

/// The fields that the binding sets itself.
async fn overrides(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    findings: &mut Findings,
) -> Option<BlockFields> {
    let namespace = binding.namespace().unwrap_or_default();
    let overrides = resolve_overrides(
        &context.key_refs,
        &context.objects,
        &namespace,
        &binding.spec.doppler,
    );
    match overrides.await {
        Ok(overrides) => Some(overrides),
        Err(failure) => {
            findings.fail("token", &format!("{}: {}", failure.reason, failure.message));
            None
        }
    }
}

/// Reads the block once.
async fn read_block(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    connection: &Arc<Connection>,
    findings: &mut Findings,
) -> Option<BlockFields> {
    let block = &binding.spec.prefect.as_ref()?.block;
    let document = match context.connections.client(connection) {
        Ok(client) => {
            let request = ReadRequest::interactive();
            client.block(&block.type_slug, &block.name, &request).await
        }
        Err(error) => Err(error),
    };
    let fields = document
        .map_err(|error| format!("{}: {error}", error.reason()))
        .and_then(|document| {
            document
                .fields(block.pointer.as_deref())
                .map_err(|error| format!("{}: {error}", error.reason()))
        });
    match fields {
        Ok(fields) => Some(fields),
        Err(why) => {
            findings.fail("block", &why);
            None
        }
    }
}

fn config_key(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    fields: BlockFields,
    findings: &mut Findings,
) -> Option<ConfigKey> {
    let complete = match fields.complete() {
        Ok(complete) => complete,
        Err(error) => {
            findings.fail("block", &format!("{}: {error}", error.reason()));
            return None;
        }
    };
    findings.ok(
        "block",
        &format!("project {}, config {}", complete.project, complete.config),
    );
    let named = BindingRef::of(binding);
    let (hosts, identities) = (&context.hosts.doppler, &context.identities);
    match connect::config_key(hosts, identities, &named, &binding.spec.doppler, complete) {
        Ok(key) => Some(key),
        // `validate` reports a host that is not a URL or not allowed.
        Err(failure) => {
            let text = format!("{}: {}", failure.reason, failure.message);
            findings.fail("Doppler", &text);
            None
        }
    }
}

fn desired_secret(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    config: &ConfigKey,
    snapshot: &Snapshot,
    findings: &mut Findings,
) -> Option<Desired> {
    let input = DesiredInput {
        binding: &binding.name_any(),
        binding_uid: binding.metadata.uid.as_deref().unwrap_or_default(),
        namespace: &binding.namespace().unwrap_or_default(),
        doppler: &binding.spec.doppler,
        managed: &binding.spec.managed_secret,
        forbidden: &context.forbidden_names,
        project: &config.project,
        config: &config.config,
        key: &context.hash_key,
    };
    let desired = match desired(&input, snapshot.values()) {
        Ok(desired) => desired,
        Err(error) => {
            findings.fail("Secret", &format!("{}: {error}", error.reason()));
            return None;
        }
    };
    let names: Vec<&str> = desired.data.keys().map(String::as_str).collect();
    findings.ok(
        "Doppler",
        &format!(
            "project {}, config {} gives {}: {}",
            config.project,
            config.config,
            count(names.len(), "key"),
            names.join(", ")
        ),
    );
    if let Some(note) = desired.proxy_note() {
        findings.note("proxy", &note);
    }
    if let Some(note) = &desired.rename_note {
        findings.note("rename", note);
    }
    for key in &desired.excluded_keys {
        findings.note("excluded", &format!("{}: {}", key.name, key.reason));
    }
    Some(desired)
}
