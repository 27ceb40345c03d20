//! Binding → block → config: what Doppler last gave for a binding, and what stands in the way of newer values.
//!
//! In: a binding. Out: [`Followed`]. Upstreams are asked by the sources, not here: this waits for nothing but references that were never read,
//! and what is not known yet wakes the binding when it is.

use std::{collections::HashSet, sync::Arc, time::Duration};

use kube::ResourceExt;
use tokio::time::Instant;
use url::Url;

use super::{
    context::{BlockKey, Context},
    objects::{Kind, ObjectKey, Objects},
    references::References,
    wake::BindingRef,
};
use crate::{
    crd::{DopplerPrefectBinding, PrefectSpec},
    doppler::{Coordinates, Snapshot},
    outbound::AllowedHosts,
    prefect::{
        Connection,
        block::BlockFields,
        server::{Values, connection, references},
    },
    reason::{Class, Reason},
    source::{Fault, Reading},
    status::Step,
};

/// Doppler's API, unless a binding names another.
const DOPPLER: &str = "https://api.doppler.com";
/// Wait before references that the API server did not give are read again.
const REFERENCE_RETRY: Duration = Duration::from_secs(5);

/// The last good values of a binding.
#[derive(Clone)]
pub struct Last {
    /// Doppler project.
    pub project: String,
    /// Doppler config.
    pub config: String,
    /// Its values.
    pub snapshot: Arc<Snapshot>,
}

/// The step at which newer values are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// On the way to project, config and token.
    Block,
    /// On the way to the values.
    Config,
}

/// What stands in the way of newer values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Where.
    pub stage: Stage,
    /// What.
    pub fault: Fault,
    /// Whether it has lasted for so long, or is of a kind, that the binding is to be told not Ready.
    pub lasting: bool,
}

/// How far the way was followed.
#[derive(Default)]
pub struct Followed {
    /// How the Prefect server is reached, if the binding names one and all it refers to is there.
    pub connection: Option<Arc<Connection>>,
    /// The first answer of an upstream is awaited: the binding is woken when it comes.
    pub awaited: bool,
    /// What was resolved just now, and from where.
    pub resolved: Option<String>,
    /// The last good values.
    pub last: Option<Last>,
    /// How many reads in a row gave them.
    pub seen: u32,
    /// What stands in the way of newer ones.
    pub trouble: Option<Trouble>,
    /// When to look again, if nothing happens before.
    pub again: Option<Duration>,
}

struct Stop(Fault, Duration);

/// Follows the way of a value up to Doppler.
pub async fn follow(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
) -> Followed {
    let interval = binding
        .spec
        .interval()
        .unwrap_or(context.settings.refresh_interval);
    let patience = context.settings.stale_after.max(interval * 2);
    let mut followed = Followed::default();
    care(context, binding, who);
    let overrides = match prepare(context, binding, who, &mut followed).await {
        Ok(overrides) => overrides,
        Err(Stop(fault, failing_for)) => {
            followed.stopped(Stage::Block, fault, failing_for, patience);
            followed.again = Some(
                followed
                    .again
                    .unwrap_or(REFERENCE_RETRY)
                    .min(REFERENCE_RETRY),
            );
            followed.last = context.memory.of(who).last;
            return followed;
        }
    };
    let coordinates = coordinates(
        context,
        binding,
        who,
        overrides,
        interval,
        patience,
        &mut followed,
    );
    // Without coordinates the config that was read before goes on being read: the block may come back as it was.
    if let Some(coordinates) = coordinates {
        let reading = context.configs.depend(who, &coordinates, interval);
        let value = followed.take(Stage::Config, &reading, patience);
        followed.last = value.map(|snapshot| Last {
            project: coordinates.project,
            config: coordinates.config,
            snapshot,
        });
        followed.seen = reading.seen;
    }
    if let Some(last) = &followed.last {
        context
            .memory
            .change(who, |remembered| remembered.last = Some(last.clone()));
    } else if !followed.awaited {
        followed.last = context.memory.of(who).last;
        followed.seen = 0;
    }
    followed
}

/// Has the watches keep and tell what the binding names.
fn care(context: &Context, binding: &DopplerPrefectBinding, who: &BindingRef) {
    let mut keys: HashSet<ObjectKey> = named(binding).into_iter().map(|(key, ..)| key).collect();
    let namespace = binding.namespace().unwrap_or_default();
    let secrets = std::iter::once(binding.secret_name().to_owned())
        .chain(
            super::note::noted(binding)
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
        kind: Kind::Secret,
        namespace: namespace.clone(),
        name,
    }));
    context.objects.care(who, keys);
}

/// The keys of objects that a binding names, each with the field that names it.
#[must_use]
pub fn named(binding: &DopplerPrefectBinding) -> Vec<(ObjectKey, String, String)> {
    let namespace = binding.namespace().unwrap_or_default();
    let mut named = Vec::new();
    if let Some(prefect) = &binding.spec.prefect {
        for reference in references(&prefect.server) {
            let object = ObjectKey {
                kind: reference.kind,
                namespace: namespace.clone(),
                name: reference.name,
            };
            named.push((object, reference.key, reference.purpose.to_string()));
        }
    }
    if let Some(token) = &binding.spec.doppler.access_token {
        let at = &token.value_from.secret_key_ref;
        let object = ObjectKey {
            kind: Kind::Secret,
            namespace,
            name: at.name.clone(),
        };
        named.push((
            object,
            at.key.clone(),
            "spec.doppler.accessToken".to_owned(),
        ));
    }
    named
}

/// Reads what the binding refers to: the connection, and the fields that the binding gives itself.
async fn prepare(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    followed: &mut Followed,
) -> Result<BlockFields, Stop> {
    let since = |fault: Fault| {
        let failing_for = context.memory.change(who, |remembered| {
            let since = remembered
                .references_fail_since
                .get_or_insert_with(Instant::now);
            since.elapsed()
        });
        Stop(fault, failing_for)
    };
    if let Some(prefect) = &binding.spec.prefect {
        followed.connection = Some(reach(context, binding, prefect).await.map_err(since)?);
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
            kind: Kind::Secret,
            namespace: binding.namespace().unwrap_or_default(),
            name: at.name.clone(),
        };
        let text = context
            .references
            .text(
                &context.objects,
                &object,
                &at.key,
                "spec.doppler.accessToken",
            )
            .await;
        let text = text.map_err(|error| since(fault(error.reason(), &error)))?;
        overrides.access_token = Some(trimmed(&text));
    }
    context.memory.change(who, |remembered| {
        remembered.references_fail_since = None;
        if let Some(connection) = &followed.connection {
            remembered
                .connections
                .insert(connection.api_url.to_string(), Arc::clone(connection));
        }
    });
    Ok(overrides)
}

/// Tokens often end with the line break of the file they were made from.
pub(crate) fn trimmed(text: &secrecy::SecretString) -> secrecy::SecretString {
    use secrecy::ExposeSecret;
    text.expose_secret().trim().into()
}

/// How the binding's Prefect server is reached, with what the context knows.
///
/// # Errors
/// As [`connect`].
pub async fn reach(
    context: &Context,
    binding: &DopplerPrefectBinding,
    prefect: &PrefectSpec,
) -> Result<Arc<Connection>, Fault> {
    connect(
        &context.references,
        &context.objects,
        &context.prefect_hosts,
        &binding.namespace().unwrap_or_default(),
        prefect,
    )
    .await
}

/// How the Prefect server of a binding in `namespace` is reached.
///
/// # Errors
/// If something that its stanza refers to is not there, or it is not allowed.
pub async fn connect(
    references_read: &References,
    objects: &Objects,
    hosts: &AllowedHosts,
    namespace: &str,
    prefect: &PrefectSpec,
) -> Result<Arc<Connection>, Fault> {
    let mut values = Values::default();
    for reference in references(&prefect.server) {
        let object = ObjectKey {
            kind: reference.kind,
            namespace: namespace.to_owned(),
            name: reference.name,
        };
        let field = reference.purpose.to_string();
        let text = references_read
            .text(objects, &object, &reference.key, &field)
            .await;
        values.insert(
            reference.purpose,
            text.map_err(|error| fault(error.reason(), &error))?,
        );
    }
    connection(&prefect.server, namespace, &values, hosts)
        .map(Arc::new)
        .map_err(|error| fault(error.reason(), &error))
}

/// Project, config and token: from the block, unless the binding gives all three.
fn coordinates(
    context: &Context,
    binding: &DopplerPrefectBinding,
    who: &BindingRef,
    overrides: BlockFields,
    interval: Duration,
    patience: Duration,
    followed: &mut Followed,
) -> Option<Coordinates> {
    let spec = &binding.spec.doppler;
    let given = overrides.missing().is_empty();
    let (fields, from) = match (&binding.spec.prefect, &followed.connection) {
        (Some(prefect), Some(connection)) if !given => {
            let key = BlockKey::new(Arc::clone(connection), &prefect.block);
            let reading = context.blocks.depend(who, &key, interval);
            let block = followed.take(Stage::Block, &reading, patience)?;
            match block.fields(prefect.block.pointer.as_deref()) {
                Ok(fields) => (
                    fields.overridden_by(overrides),
                    format!("block {}/{} gives", key.type_slug, key.name),
                ),
                Err(error) => {
                    followed.stopped(
                        Stage::Block,
                        fault(error.reason(), &error),
                        Duration::ZERO,
                        patience,
                    );
                    return None;
                }
            }
        }
        _ => {
            context.blocks.leave(who);
            (overrides, "the binding itself gives".to_owned())
        }
    };
    let complete = match fields.complete() {
        Ok(complete) => complete,
        Err(error) => {
            followed.stopped(
                Stage::Block,
                fault(error.reason(), &error),
                Duration::ZERO,
                patience,
            );
            return None;
        }
    };
    let host = match doppler_host(&context.doppler_hosts, spec.host.as_deref()) {
        Ok(host) => host,
        Err(fault) => {
            followed.stopped(Stage::Config, fault, Duration::ZERO, patience);
            return None;
        }
    };
    followed.resolved = Some(format!(
        "{from} project {}, config {}",
        complete.project, complete.config
    ));
    Some(Coordinates {
        host,
        token: complete.access_token,
        project: complete.project,
        config: complete.config,
        transformer: spec.name_transformer,
    })
}

/// Doppler's API, as a binding names it.
///
/// # Errors
/// If it is not allowed.
pub fn doppler_host(hosts: &AllowedHosts, host: Option<&str>) -> Result<Url, Fault> {
    let url = Url::parse(host.unwrap_or(DOPPLER)).map_err(|_| Fault {
        reason: Reason::InvalidSpec,
        message: "spec.doppler.host is not a URL: write one such as https://api.doppler.com"
            .to_owned(),
        retry_after: None,
    })?;
    hosts.check(&url).map_err(|error| Fault {
        reason: error.reason(),
        message: format!("spec.doppler.host: {error}"),
        retry_after: None,
    })?;
    Ok(url)
}

/// A fault from an error whose text may be shown.
pub fn fault(reason: Reason, error: &impl std::fmt::Display) -> Fault {
    Fault {
        reason,
        message: error.to_string(),
        retry_after: None,
    }
}

impl Followed {
    /// Takes what a source knows: its value, if there is one; and its trouble.
    fn take<V>(
        &mut self,
        stage: Stage,
        reading: &Reading<V>,
        patience: Duration,
    ) -> Option<Arc<V>> {
        match &reading.fault {
            Some(fault) => self.stopped(
                stage,
                fault.clone(),
                reading.failing_for(Instant::now()),
                patience,
            ),
            None if reading.value.is_none() => self.awaited = true,
            None => {}
        }
        reading.value.clone()
    }

    /// Notes trouble; the first one on the way counts.
    fn stopped(&mut self, stage: Stage, fault: Fault, failing_for: Duration, patience: Duration) {
        let lasting =
            matches!(fault.reason.class(), Class::WaitForChange) || failing_for >= patience;
        if !lasting {
            let wait = patience.saturating_sub(failing_for);
            self.again = Some(self.again.map_or(wait, |again| again.min(wait)));
        }
        if self.trouble.is_none() {
            self.trouble = Some(Trouble {
                stage,
                fault,
                lasting,
            });
        }
    }

    /// What the condition `BlockResolved` is to say.
    #[must_use]
    pub fn block_step(&self, was_true: bool) -> Step {
        match (&self.trouble, &self.resolved) {
            (Some(trouble), _) if trouble.stage == Stage::Block && trouble.lasting => {
                failed(&trouble.fault)
            }
            (_, Some(resolved)) => Step::Done(Reason::Resolved, resolved.clone()),
            (Some(trouble), None) if trouble.stage == Stage::Config => failed(&trouble.fault),
            (Some(_), None) if was_true => Step::AsBefore,
            (Some(trouble), None) => failed(&trouble.fault),
            (None, None) => Step::AsBefore,
        }
    }

    /// What the condition `SecretSynced` is to say instead of that all is well, if anything.
    #[must_use]
    pub fn secret_step(&self, was_true: bool) -> Option<Step> {
        let trouble = self.trouble.as_ref()?;
        if trouble.lasting {
            let kept = if self.last.is_some() || was_true {
                "; the Secret keeps its last good values"
            } else {
                ""
            };
            return Some(Step::Failed(
                trouble.fault.reason,
                format!("{}{kept}", trouble.fault.message),
            ));
        }
        if self.last.is_some() {
            return None;
        }
        Some(if was_true {
            Step::AsBefore
        } else {
            failed(&trouble.fault)
        })
    }
}

fn failed(fault: &Fault) -> Step {
    Step::Failed(fault.reason, fault.message.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_mins(5);

    fn unreachable() -> Fault {
        Fault {
            reason: Reason::DopplerUnreachable,
            message: "down".to_owned(),
            retry_after: None,
        }
    }

    fn last() -> Last {
        Last {
            project: "p".to_owned(),
            config: "c".to_owned(),
            snapshot: Arc::new(Snapshot::new(std::collections::BTreeMap::default(), None)),
        }
    }

    #[test]
    fn a_failure_that_may_pass_changes_nothing_until_it_has_lasted() {
        let mut followed = Followed {
            resolved: Some("block".to_owned()),
            last: Some(last()),
            ..Followed::default()
        };
        followed.stopped(
            Stage::Config,
            unreachable(),
            Duration::from_mins(1),
            PATIENCE,
        );
        assert_eq!(followed.secret_step(true), None);
        assert_eq!(
            followed.again,
            Some(Duration::from_mins(4)),
            "and is looked at again when it has lasted"
        );
        let mut followed = Followed {
            resolved: Some("block".to_owned()),
            last: Some(last()),
            ..Followed::default()
        };
        followed.stopped(Stage::Config, unreachable(), PATIENCE, PATIENCE);
        let Some(Step::Failed(reason, message)) = followed.secret_step(true) else {
            panic!("not failed")
        };
        assert_eq!(reason, Reason::DopplerUnreachable);
        assert!(message.contains("keeps its last good values"), "{message}");
        assert!(matches!(followed.block_step(true), Step::Done(..)));
    }

    #[test]
    fn a_refused_token_is_told_at_once() {
        let mut followed = Followed {
            last: Some(last()),
            ..Followed::default()
        };
        followed.stopped(
            Stage::Config,
            Fault {
                reason: Reason::DopplerUnauthorized,
                ..unreachable()
            },
            Duration::ZERO,
            PATIENCE,
        );
        assert!(matches!(
            followed.secret_step(true),
            Some(Step::Failed(Reason::DopplerUnauthorized, _))
        ));
    }

    #[test]
    fn a_restart_while_doppler_is_down_leaves_the_conditions_as_they_are() {
        let mut followed = Followed {
            resolved: Some("block".to_owned()),
            ..Followed::default()
        };
        followed.stopped(Stage::Config, unreachable(), Duration::ZERO, PATIENCE);
        assert_eq!(followed.secret_step(true), Some(Step::AsBefore));
        assert!(
            matches!(followed.secret_step(false), Some(Step::Failed(..))),
            "a new binding is told at once"
        );
    }

    #[test]
    fn trouble_with_the_block_is_not_told_as_trouble_with_doppler() {
        let mut followed = Followed::default();
        followed.stopped(
            Stage::Block,
            Fault {
                reason: Reason::BlockMissing,
                ..unreachable()
            },
            Duration::ZERO,
            PATIENCE,
        );
        followed.stopped(Stage::Config, unreachable(), PATIENCE, PATIENCE);
        assert!(matches!(
            followed.block_step(true),
            Step::Failed(Reason::BlockMissing, _)
        ));
        assert!(matches!(
            followed.secret_step(true),
            Some(Step::Failed(Reason::BlockMissing, _))
        ));
    }
}
