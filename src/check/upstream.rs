//! The block, the config and the Secret that they make, for real.

use std::sync::Arc;

use kube::ResourceExt;

use super::{World, lines::Lines};
use crate::{
    controller::{
        connect::{connect, doppler_host, trimmed},
        object_cache::{Kind, ObjectKey},
    },
    crd::DopplerPrefectBinding,
    doppler::{Coordinates, Download},
    prefect::{Connection, block::BlockFields},
    secret::{Desired, Input, desired},
    upstream::limiter::Wish,
};

/// What was resolved.
pub(super) struct Found {
    /// How the Prefect server is reached.
    pub connection: Option<Arc<Connection>>,
    /// The Secret that would be written.
    pub desired: Desired,
}

/// Resolves block and config; says what the Secret would hold.
pub(super) async fn resolve(
    world: &World,
    binding: &DopplerPrefectBinding,
    namespace: &str,
    lines: &mut Lines,
) -> Option<Found> {
    let spec = &binding.spec;
    let mut connection = None;
    if let Some(prefect) = &spec.prefect {
        let found = connect(
            &world.references,
            &world.objects,
            &world.prefect_hosts,
            namespace,
            prefect,
        )
        .await;
        match found {
            Ok(found) => connection = Some(reachable(world, found.into())),
            Err(fault) => {
                lines.wrong("Prefect", &format!("{}: {}", fault.reason, fault.message));
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
            kind: Kind::Secret,
            namespace: namespace.to_owned(),
            name: at.name.clone(),
        };
        match world
            .references
            .text(&world.objects, &object, &at.key, "spec.doppler.accessToken")
            .await
        {
            Ok(text) => overrides.access_token = Some(trimmed(&text)),
            Err(error) => {
                lines.wrong("token", &format!("{}: {error}", error.reason()));
                return None;
            }
        }
    }
    let coordinates = coordinates(world, binding, connection.as_ref(), overrides, lines).await?;
    let snapshot = match world
        .doppler
        .download(&coordinates, None, &Wish::now())
        .await
    {
        Ok(Download::New(snapshot)) => snapshot,
        Ok(Download::Unchanged) => return None,
        Err(error) => {
            lines.wrong("Doppler", &format!("{}: {error}", error.reason()));
            return None;
        }
    };
    let input = Input {
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
            lines.wrong("Secret", &format!("{}: {error}", error.reason()));
            return None;
        }
    };
    let names: Vec<&str> = desired.data.keys().map(String::as_str).collect();
    lines.well(
        "Doppler",
        &format!(
            "project {}, config {} gives {} keys: {}",
            coordinates.project,
            coordinates.config,
            names.len(),
            names.join(", ")
        ),
    );
    for held in &desired.held_back {
        lines.note("held back", &format!("{}: {}", held.name, held.why));
    }
    Some(Found {
        connection,
        desired,
    })
}

/// The connection, by the address at which this machine reaches the server.
fn reachable(world: &World, connection: Arc<Connection>) -> Arc<Connection> {
    match &world.prefect_api_url {
        Some(url) => Arc::new(Connection {
            api_url: url.clone(),
            ..Connection::clone(&connection)
        }),
        None => connection,
    }
}

async fn coordinates(
    world: &World,
    binding: &DopplerPrefectBinding,
    connection: Option<&Arc<Connection>>,
    overrides: BlockFields,
    lines: &mut Lines,
) -> Option<Coordinates> {
    let spec = &binding.spec;
    let fields = match (&spec.prefect, connection) {
        (Some(prefect), Some(connection)) if !overrides.missing().is_empty() => {
            let block = &prefect.block;
            let document = match world.clients.get(connection) {
                Ok(client) => {
                    let wish = Wish::now();
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
                    lines.wrong("block", &why);
                    return None;
                }
            }
        }
        _ => overrides,
    };
    match fields.complete() {
        Ok(complete) => {
            lines.well(
                "block",
                &format!("project {}, config {}", complete.project, complete.config),
            );
            Some(Coordinates {
                host: doppler_host(&world.doppler_hosts, spec.doppler.host.as_deref()).ok()?,
                token: complete.access_token,
                project: complete.project,
                config: complete.config,
                transformer: spec.doppler.name_transformer,
            })
        }
        Err(error) => {
            lines.wrong("block", &format!("{}: {error}", error.reason()));
            None
        }
    }
}

/// Whether the Secret could be written.
pub(super) async fn target(
    world: &World,
    binding: &DopplerPrefectBinding,
    namespace: &str,
    desired: &Desired,
    lines: &mut Lines,
) {
    let name = &desired.name;
    match world.secrets.get(namespace, name).await {
        Ok(None) => lines.well(
            "Secret",
            &format!("{name} would be created with {} keys", desired.data.len()),
        ),
        Ok(Some(found)) => {
            let ours = found.facts.binding.as_deref() == Some(&*binding.name_any())
                && found.facts.labelled;
            if let Some(error) = found.obstacle() {
                lines.wrong("Secret", &format!("{}: {name}: {error}", error.reason()));
            } else if ours && found.holds(&desired.data) {
                lines.well("Secret", &format!("{name} is up to date"));
            } else if ours {
                lines.well(
                    "Secret",
                    &format!("{name} would be updated to {} keys", desired.data.len()),
                );
            } else if let (true, Some(other)) =
                (found.facts.labelled, found.facts.binding.as_deref())
            {
                lines.wrong("Secret", &format!("SecretClaimed: {name} is written by binding {other}: set spec.managedSecret.name to another name"));
            } else if binding.spec.managed_secret.adopt
                && found.facts.controller.is_none()
                && !found.facts.is_held()
            {
                lines.well(
                    "Secret",
                    &format!("{name} is there and would be taken over (adopt)"),
                );
            } else {
                lines.wrong("Secret", &format!("SecretForeign: {name} is there and is not this operator's: set spec.managedSecret.name to another name"));
            }
        }
        Err(error) => lines.wrong("Secret", &format!("{}: {error}", error.reason())),
    }
}
