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
        config_sources::{self, Overrides, name_of},
        connect::{build_connection, check_service, config_key},
        prefect_server::PrefectServer,
        service_types::ServiceError,
    },
    crd::{BindingRef, DopplerPrefectBinding},
    doppler::{ConfigKey, Download, Snapshot},
    failure::Failure,
    prefect::{Connection, block::BlockFields},
    printable::count,
    secret::{Desired, DesiredInput, SourceValues, desired, merge::Collision},
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
    server: Option<&PrefectServer>,
    findings: &mut Findings,
) -> Option<Resolved> {
    let resolved = read(context, binding, server, findings).await;
    context.revoke_tokens().await;
    resolved
}

async fn read(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    server: Option<&PrefectServer>,
    findings: &mut Findings,
) -> Option<Resolved> {
    let connection = match server {
        Some(server) => Some(connect(context, binding, server, findings).await?),
        None => None,
    };
    let overrides = overrides(context, binding, findings).await?;
    let block = match &connection {
        Some(connection) if !overrides.missing().is_empty() => {
            read_block(context, binding, connection, findings).await?
        }
        _ => BlockFields::default(),
    };
    let configs = config_keys(context, binding, &block, &overrides, findings)?;
    let mut snapshots = Vec::with_capacity(configs.len());
    for config in &configs {
        snapshots.push(download(context, config, findings).await?);
    }
    let desired = desired_secret(context, binding, &configs, &snapshots, findings)?;
    Some(Resolved {
        connection,
        desired,
    })
}

/// Downloads a config once.
async fn download(
    context: &CheckContext,
    config: &ConfigKey,
    findings: &mut Findings,
) -> Option<Snapshot> {
    let request = ReadRequest::interactive();
    match context.doppler.download(config, None, &request).await {
        Ok(Download::Changed(snapshot)) => Some(snapshot),
        Ok(Download::Unchanged) => None,
        Err(error) => {
            findings.fail("Doppler", &format!("{}: {error}", error.reason()));
            None
        }
    }
}

async fn connect(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    server: &PrefectServer,
    findings: &mut Findings,
) -> Option<Arc<Connection>> {
    let namespace = binding.namespace().unwrap_or_default();
    let connection = build_connection(
        &context.key_refs,
        &context.objects,
        &context.hosts.prefect,
        &namespace,
        server,
    )
    .await;
    if let Ok(connection) = &connection {
        let url = &connection.api_url;
        match check_service(&context.service_types, &namespace, server, url).await {
            Ok(()) => {}
            // The permissions are those of the user, not those of the operator.
            Err(error @ (ServiceError::Forbidden(_) | ServiceError::Unreachable(_))) => {
                let failure = server.explain(error.into());
                findings.note("Prefect", &format!("not checked here: {failure}"));
            }
            Err(error) => {
                let failure = server.explain(error.into());
                findings.fail("Prefect", &format!("{}: {failure}", failure.reason));
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

/// What the binding sets itself.
async fn overrides(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    findings: &mut Findings,
) -> Option<Overrides> {
    let namespace = binding.namespace().unwrap_or_default();
    let overrides = Overrides::resolve(
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
    if let Some(name) = &connection.shared {
        let namespace = binding.namespace().unwrap_or_default();
        let servers = &context.cluster_servers;
        if let Err(refused) = servers.check_block(name, &namespace, &block.name) {
            let failure = Failure::from(refused);
            findings.fail("block", &format!("{}: {failure}", failure.reason));
            return None;
        }
    }
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

fn config_keys(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    block: &BlockFields,
    overrides: &Overrides,
    findings: &mut Findings,
) -> Option<Vec<ConfigKey>> {
    let (hosts, doppler) = (&context.hosts.doppler, &binding.spec.doppler);
    let (identities, named) = (&context.identities, BindingRef::of(binding));
    let policy = context.block_overrides;
    let key_of = |fields| config_key(hosts, identities, &named, doppler, fields);
    match config_sources::config_keys(doppler, block, overrides, policy, key_of) {
        Ok(keys) => {
            findings.ok("block", &names_of(&keys));
            Some(keys)
        }
        Err(failure) => {
            let text = format!("{}: {}", failure.reason, failure.message);
            findings.fail("block", &text);
            None
        }
    }
}

fn names_of(configs: &[ConfigKey]) -> String {
    if let [key] = configs {
        return format!("project {}, config {}", key.project, key.config);
    }
    let names = configs.iter().map(|key| name_of(&key.project, &key.config));
    format!("configs {}", names.collect::<Vec<_>>().join(", "))
}

fn desired_secret(
    context: &CheckContext,
    binding: &DopplerPrefectBinding,
    configs: &[ConfigKey],
    snapshots: &[Snapshot],
    findings: &mut Findings,
) -> Option<Desired> {
    let input = DesiredInput {
        binding: &binding.name_any(),
        binding_uid: binding.metadata.uid.as_deref().unwrap_or_default(),
        namespace: &binding.namespace().unwrap_or_default(),
        doppler: &binding.spec.doppler,
        managed: &binding.spec.managed_secret,
        forbidden: &context.forbidden_names,
        key: &context.hash_key,
    };
    let items = binding.spec.doppler.configs.iter().map(Some);
    let sources = configs.iter().zip(snapshots).zip(items.chain([None]));
    let sources: Vec<SourceValues<'_>> = sources
        .map(|((key, snapshot), item)| SourceValues {
            project: &key.project,
            config: &key.config,
            item,
            values: snapshot.values(),
        })
        .collect();
    let desired = match desired(&input, &sources) {
        Ok(desired) => desired,
        Err(error) => {
            findings.fail("Secret", &format!("{}: {error}", error.reason()));
            return None;
        }
    };
    let names: Vec<&str> = desired.data.keys().map(String::as_str).collect();
    let gives = if configs.len() == 1 { "gives" } else { "give" };
    findings.ok(
        "Doppler",
        &format!(
            "{} {gives} {}: {}",
            names_of(configs),
            count(names.len(), "key"),
            names.join(", ")
        ),
    );
    for Collision {
        name,
        earlier,
        later,
    } in &desired.collisions
    {
        let text = format!(
            "{name}: spec.doppler.configs[{later}] comes after spec.doppler.configs[{earlier}]"
        );
        findings.note("overridden", &text);
    }
    if let Some(files) = &desired.files {
        let names: Vec<&str> = files.data.keys().map(String::as_str).collect();
        let number = count(names.len(), "file");
        findings.ok("files", &format!("{number}: {}", names.join(", ")));
    }
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
