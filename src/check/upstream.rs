//! The block, the config and the Secret that they make, for real.

use std::sync::Arc;

use kube::ResourceExt;

use super::{CheckContext, lines::Findings};
use crate::{
    controller::{
        connect::{build_connection, doppler_host, trimmed},
        object_cache::{ObjectKey, ReferenceKind},
    },
    crd::DopplerPrefectBinding,
    doppler::{ConfigKey, Download},
    prefect::{Connection, block::BlockFields},
    secret::{Desired, DesiredInput, desired},
    upstream::limiter::ReadRequest,
};

/// What was resolved.
pub(super) struct Resolved {
    /// How the Prefect server is reached.
    pub connection: Option<Arc<Connection>>,
    /// The Secret that would be written.
    pub desired: Desired,
}

/// Resolves block and config; says what the Secret would hold.
pub(super) async fn resolve(
    world: &CheckContext,
    binding: &DopplerPrefectBinding,
    namespace: &str,
    lines: &mut Findings,
) -> Option<Resolved> {
    let spec = &binding.spec;
    let mut connection = None;
    if let Some(prefect) = &spec.prefect {
        let found = build_connection(
            &world.references,
            &world.objects,
            &world.prefect_hosts,
            namespace,
            prefect,
        )
        .await;
        match found {
            Ok(found) => connection = Some(override_api_url(world, found.into())),
            Err(fault) => {
                lines.fail("Prefect", &format!("{}: {}", fault.reason, fault.message));
                return None;
            }
        }
    }
    let mut overrides = BlockFields {
        project: spec.doppler.project.clone(),
        config: spec.doppler.config.clone(),
        access_token: None,
    };
    if let Some(token) = &spec.doppler.access_token {
        let at = &token.value_from.secret_key_ref;
        let object = ObjectKey {
            kind: ReferenceKind::Secret,
            namespace: namespace.to_owned(),
            name: at.name.clone(),
        };
        match world
            .references
            .resolve(&world.objects, &object, &at.key, "spec.doppler.accessToken")
            .await
        {
            Ok(text) => overrides.access_token = Some(trimmed(&text)),
            Err(error) => {
                lines.fail("token", &format!("{}: {error}", error.reason()));
                return None;
            }
        }
    }
    let coordinates =
        resolve_config_key(world, binding, connection.as_ref(), overrides, lines).await?;
    let snapshot = match world
        .doppler
        .download(&coordinates, None, &ReadRequest::interactive())
        .await
    {
        Ok(Download::Changed(snapshot)) => snapshot,
        Ok(Download::Unchanged) => return None,
        Err(error) => {
            lines.fail("Doppler", &format!("{}: {error}", error.reason()));
            return None;
        }
    };
    let input = DesiredInput {
        binding: &binding.name_any(),
        binding_uid: "",
        namespace,
        doppler: &spec.doppler,
        managed: &spec.managed_secret,
        project: &coordinates.project,
        config: &coordinates.config,
        key: &world.hash_key,
    };
    let desired = match desired(&input, snapshot.values()) {
        Ok(desired) => desired,
        Err(error) => {
            lines.fail("Secret", &format!("{}: {error}", error.reason()));
            return None;
        }
    };
    let names: Vec<&str> = desired.data.keys().map(String::as_str).collect();
    lines.ok(
        "Doppler",
        &format!(
            "project {}, config {} gives {} keys: {}",
            coordinates.project,
            coordinates.config,
            names.len(),
            names.join(", ")
        ),
    );
    for held in &desired.excluded_keys {
        lines.note("held back", &format!("{}: {}", held.name, held.reason));
    }
    Some(Resolved {
        connection,
        desired,
    })
}

/// The connection, by the address at which this machine reaches the server.
fn override_api_url(world: &CheckContext, connection: Arc<Connection>) -> Arc<Connection> {
    match &world.prefect_api_url {
        Some(url) => Arc::new(Connection {
            api_url: url.clone(),
            ..Connection::clone(&connection)
        }),
        None => connection,
    }
}

async fn resolve_config_key(
    world: &CheckContext,
    binding: &DopplerPrefectBinding,
    connection: Option<&Arc<Connection>>,
    overrides: BlockFields,
    lines: &mut Findings,
) -> Option<ConfigKey> {
    let spec = &binding.spec;
    let fields = match (&spec.prefect, connection) {
        (Some(prefect), Some(connection)) if !overrides.missing().is_empty() => {
            let block = &prefect.block;
            let document = match world.clients.get(connection) {
                Ok(client) => {
                    let wish = ReadRequest::interactive();
                    client.block(&block.type_slug, &block.name, &wish).await
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
                Ok(fields) => fields.overridden_by(overrides),
                Err(why) => {
                    lines.fail("block", &why);
                    return None;
                }
            }
        }
        _ => overrides,
    };
    match fields.complete() {
        Ok(complete) => {
            lines.ok(
                "block",
                &format!("project {}, config {}", complete.project, complete.config),
            );
            Some(ConfigKey {
                host: doppler_host(&world.doppler_hosts, spec.doppler.host.as_deref()).ok()?,
                token: complete.access_token,
                project: complete.project,
                config: complete.config,
                transformer: spec.doppler.name_transformer,
            })
        }
        Err(error) => {
            lines.fail("block", &format!("{}: {error}", error.reason()));
            None
        }
    }
}

/// Whether the Secret could be written.
pub(super) async fn check_secret(
    world: &CheckContext,
    binding: &DopplerPrefectBinding,
    namespace: &str,
    desired: &Desired,
    lines: &mut Findings,
) {
    let name = &desired.name;
    match world.secrets.get(namespace, name).await {
        Ok(None) => lines.ok(
            "Secret",
            &format!("{name} would be created with {} keys", desired.data.len()),
        ),
        Ok(Some(found)) => {
            let ours = found.observed.binding.as_deref() == Some(&*binding.name_any())
                && found.observed.has_managed_by_label;
            if let Some(error) = found.update_blocker() {
                lines.fail("Secret", &format!("{}: {name}: {error}", error.reason()));
            } else if ours && found.data_equals(&desired.data) {
                lines.ok("Secret", &format!("{name} is up to date"));
            } else if ours {
                lines.ok(
                    "Secret",
                    &format!("{name} would be updated to {} keys", desired.data.len()),
                );
            } else if let (true, Some(other)) = (
                found.observed.has_managed_by_label,
                found.observed.binding.as_deref(),
            ) {
                lines.fail("Secret", &format!("SecretClaimed: {name} is written by binding {other}: set spec.managedSecret.name to another name"));
            } else if binding.spec.managed_secret.adopt
                && found.observed.controller.is_none()
                && !found.observed.is_owned_by_recorded_binding()
            {
                lines.ok(
                    "Secret",
                    &format!("{name} is there and would be taken over (adopt)"),
                );
            } else {
                lines.fail("Secret", &format!("SecretForeign: {name} is there and is not this operator's: set spec.managedSecret.name to another name"));
            }
        }
        Err(error) => lines.fail("Secret", &format!("{}: {error}", error.reason())),
    }
}
