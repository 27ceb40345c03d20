//! `release`: the operator's entries out of all pools, its finalizers off all bindings, before it is uninstalled.
//!
//! In: flags, and a way to the API server. Out: clean pools, bindings without our finalizer, Secrets that go with their bindings or, with
//! `--keep-secrets`, stay behind. A pool that cannot be cleaned is named, its Secret stays, and the finalizer goes all the same. Nothing is deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    core::DeserializeGuard,
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::{
    args::{ReleaseArgs, UpstreamArgs},
    controller::{
        connect::connect,
        finalizer::{self, NoteError, Noted},
        key_refs::References,
        object_cache::Objects,
        watches::scoped,
        work_queue::Scope,
    },
    crd::{DeletionPolicy, DopplerPrefectBinding, WorkPoolState},
    inject::template::{Edit, edit},
    outbound::{AllowedHosts, PatternError},
    prefect::{Clients, Connection, PrefectError},
    process::{
        leader_election::{Candidate, Held, LeaseLost, Leases},
        run::{RunError, kubernetes},
    },
    reason::Reason,
    secret::{Secrets, WriteError, owner_reference},
    upstream::limiter::{Gate, Rank},
};

/// Time limit of a step at the API server.
const LIMIT: Duration = Duration::from_secs(20);
/// How long to wait for the lease: longer than one lasts that nobody gave back.
const LEASE_PATIENCE: Duration = Duration::from_secs(40);
/// Bindings in one page of a list.
const PAGE: u32 = 500;
/// Wait before something that failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often a binding that keeps changing is tried.
const TRIES: usize = 5;

/// Nothing, or not everything, was released.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// An allowed host is none.
    #[error(transparent)]
    Hosts(#[from] PatternError),
    /// No way to the API server.
    #[error(transparent)]
    Kubernetes(#[from] RunError),
    /// The bindings cannot be listed.
    #[error("the bindings cannot be listed ({0}); give the account list on dopplerprefectbindings")]
    List(String),
    /// A finalizer is still there.
    #[error(
        "{0} bindings still carry the finalizer; run it again, or remove doppler-prefect.dev/injected from their metadata.finalizers"
    )]
    Held(usize),
    /// An operator runs.
    #[error("an operator works again: scale its Deployment to zero and run it again")]
    Lease(#[from] LeaseLost),
    /// Nobody listens.
    #[error("standard output is closed")]
    Output(#[from] io::Error),
}

struct Release {
    client: Client,
    secrets: Secrets,
    clients: Clients,
    references: References,
    objects: Objects,
    hosts: AllowedHosts,
    keep_secrets: bool,
    deadline: Instant,
}

/// Releases all bindings of the scopes.
///
/// # Errors
/// If they cannot be listed, or one still carries the finalizer at the end.
pub async fn release(args: ReleaseArgs) -> Result<(), ReleaseError> {
    let ReleaseArgs {
        keep_secrets,
        watch_namespaces,
        scale_down,
        operator_namespace,
        lease_name,
        timeout: patience,
        upstream,
    } = args;
    let UpstreamArgs {
        allowed_prefect_hosts,
        prefect_timeout,
        allowed_doppler_hosts: _,
        doppler_timeout: _,
    } = upstream;
    let hosts = AllowedHosts::parse("--allowed-prefect-host", &allowed_prefect_hosts)?;
    let client = kubernetes().await?;
    let release = Release {
        secrets: Secrets::new(client.clone(), LIMIT),
        clients: Clients::new(prefect_timeout, Gate::small()),
        references: References::new(client.clone(), LIMIT),
        objects: Objects::new(Box::new(|_| {})),
        hosts,
        keep_secrets,
        deadline: Instant::now() + patience,
        client,
    };
    if let Some(deployment) = scale_down {
        release
            .stop_the_operator(&operator_namespace, &deployment)
            .await?;
    }
    let lease = match lease_name {
        Some(name) => release.lease(&operator_namespace, &name).await?,
        None => None,
    };
    let work = release.release(&watch_namespaces);
    match lease {
        // It is not given back: a replica that has still not ended would take it.
        Some(mut held) => Box::pin(held.while_held(work)).await?,
        None => work.await,
    }
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

impl Release {
    async fn release(&self, watch_namespaces: &[String]) -> Result<(), ReleaseError> {
        let mut bindings = Vec::new();
        for scope in Scope::of(watch_namespaces) {
            bindings.extend(self.list(&scope).await?);
        }
        let dirty = self.clean_pools(&bindings).await?;
        let mut held = 0;
        for binding in &bindings {
            if !self.let_go(binding, &dirty).await? {
                held += 1;
            }
        }
        say(&format!("{} bindings released", bindings.len() - held))?;
        if held == 0 {
            Ok(())
        } else {
            Err(ReleaseError::Held(held))
        }
    }

    /// The lease of the replicas, once the last of them has given it back.
    async fn lease(&self, namespace: &str, name: &str) -> Result<Option<Held>, ReleaseError> {
        let leases = Leases::new(self.client.clone(), namespace, name);
        let candidate = Candidate::new(leases, "release", None);
        let held = timeout(LEASE_PATIENCE, candidate.until_held(|| {})).await;
        if held.is_err() {
            say(&format!(
                "warning: lease {namespace}/{name} could not be had; an operator that runs may put entries back"
            ))?;
        }
        Ok(held.ok())
    }

    /// An operator that runs would put back what is taken out.
    async fn stop_the_operator(&self, namespace: &str, name: &str) -> Result<(), ReleaseError> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let scale = Patch::Merge(json!({"spec": {"replicas": 0}}));
        let params = PatchParams::default();
        match timeout(LIMIT, api.patch_scale(name, &params, &scale)).await {
            Ok(Ok(_)) => {}
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(()),
            _ => {
                return Ok(say(&format!(
                    "warning: deployment {namespace}/{name} could not be scaled to zero; if it runs, it may put entries back"
                ))?);
            }
        }
        while Instant::now() < self.deadline {
            if let Ok(Ok(deployment)) = timeout(LIMIT, api.get(name)).await
                && deployment
                    .status
                    .and_then(|status| status.replicas)
                    .unwrap_or(0)
                    == 0
            {
                return Ok(say(&format!(
                    "deployment {namespace}/{name} is scaled to zero"
                ))?);
            }
            tokio::time::sleep(AGAIN).await;
        }
        Ok(say(&format!(
            "warning: deployment {namespace}/{name} still has pods; they may put entries back"
        ))?)
    }

    async fn list(&self, scope: &Scope) -> Result<Vec<DopplerPrefectBinding>, ReleaseError> {
        let api: Api<DeserializeGuard<DopplerPrefectBinding>> = scoped(self.client.clone(), scope);
        let mut params = ListParams::default().limit(PAGE);
        let mut bindings = Vec::new();
        loop {
            let page = match timeout(LIMIT, api.list(&params)).await {
                Ok(Ok(page)) => page,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Ok(bindings),
                Ok(Err(kube::Error::Api(status))) => {
                    return Err(ReleaseError::List(format!("status {}", status.code)));
                }
                Ok(Err(_)) | Err(_) => {
                    return Err(ReleaseError::List(
                        "the API server could not be reached".to_owned(),
                    ));
                }
            };
            bindings.extend(page.items.into_iter().map(|binding| match binding.0 {
                Ok(binding) => binding,
                Err(invalid) => DopplerPrefectBinding {
                    metadata: invalid.metadata,
                    ..DopplerPrefectBinding::new(
                        "",
                        crate::crd::DopplerPrefectBindingSpec::default(),
                    )
                },
            }));
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params.continue_token = Some(token),
                _ => return Ok(bindings),
            }
        }
    }

    /// Takes all entries out of all pools, each pool at once. Gives the entries that are still in.
    async fn clean_pools(
        &self,
        bindings: &[DopplerPrefectBinding],
    ) -> Result<BTreeSet<Noted>, ReleaseError> {
        let mut pools: BTreeMap<(String, String), Vec<(&DopplerPrefectBinding, Noted)>> =
            BTreeMap::new();
        for binding in bindings {
            for entry in finalizer::noted(binding) {
                pools
                    .entry((entry.server.clone(), entry.pool.clone()))
                    .or_default()
                    .push((binding, entry));
            }
        }
        let mut dirty = BTreeSet::new();
        for ((server, pool), entries) in pools {
            let ours: BTreeSet<String> = entries
                .iter()
                .filter(|(binding, entry)| !is_theirs(binding, entry))
                .map(|(_, entry)| entry.secret.clone())
                .collect();
            match self.clean_pool(&server, &pool, &entries, &ours).await {
                Ok(()) => say(&format!("work pool {pool} on {server}: clean"))?,
                Err(why) => {
                    say(&format!(
                        "warning: work pool {pool} on {server} could not be cleaned: {why}; its Secrets stay: {}",
                        names(&ours)
                    ))?;
                    dirty.extend(entries.into_iter().map(|(_, entry)| entry));
                }
            }
        }
        Ok(dirty)
    }

    async fn clean_pool(
        &self,
        server: &str,
        pool: &str,
        entries: &[(&DopplerPrefectBinding, Noted)],
        ours: &BTreeSet<String>,
    ) -> Result<(), String> {
        let connection = self.connection(server, entries).await?;
        let client = self
            .clients
            .get(&connection)
            .map_err(|error| error.to_string())?;
        loop {
            let done = async {
                let before = client.work_pool(pool, Rank::Urgent).await?;
                if let Ok(Edit::Changed(template)) = edit(&before.base_job_template, &[], ours) {
                    client.patch_work_pool(pool, &template).await?;
                    let after = client.work_pool(pool, Rank::Urgent).await?;
                    return Ok::<_, PrefectError>(matches!(
                        edit(&after.base_job_template, &[], ours),
                        Ok(Edit::Unchanged) | Err(_)
                    ));
                }
                Ok(true)
            };
            let why = match done.await {
                Ok(true) => return Ok(()),
                Ok(false) => "somebody put the entry back".to_owned(),
                Err(error) if error.reason() == Reason::PoolMissing => return Ok(()),
                Err(error) => error.to_string(),
            };
            if Instant::now() + AGAIN >= self.deadline {
                return Err(why);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// How the server of an entry is reached: as one of the bindings that noted it says.
    async fn connection(
        &self,
        server: &str,
        entries: &[(&DopplerPrefectBinding, Noted)],
    ) -> Result<Arc<Connection>, String> {
        let mut why =
            format!("no binding names {server} any more, so that its credentials are not known");
        for (binding, _) in entries {
            let Some(prefect) = &binding.spec.prefect else {
                continue;
            };
            let namespace = binding.namespace().unwrap_or_default();
            match connect(
                &self.references,
                &self.objects,
                &self.hosts,
                &namespace,
                prefect,
            )
            .await
            {
                Ok(connection) if connection.api_url.as_str() == server => {
                    return Ok(connection.into());
                }
                Ok(_) => {}
                Err(fault) => why = fault.message,
            }
        }
        Err(why)
    }

    /// The binding's Secrets, then its finalizer. False if the finalizer is still there.
    async fn let_go(
        &self,
        binding: &DopplerPrefectBinding,
        dirty: &BTreeSet<Noted>,
    ) -> io::Result<bool> {
        let namespace = binding.namespace().unwrap_or_default();
        let noted = finalizer::noted(binding);
        let secrets: BTreeSet<&str> = noted
            .iter()
            .map(|entry| entry.secret.as_str())
            .chain([binding.secret_name()])
            .collect();
        for name in secrets {
            let in_use = dirty
                .iter()
                .any(|entry| noted.contains(entry) && entry.secret == name);
            if let Err(error) = self.settle(binding, &namespace, name, in_use).await {
                say(&format!("warning: Secret {namespace}/{name}: {error}"))?;
            }
        }
        if !finalizer::is_held(binding) {
            return Ok(true);
        }
        let mut current = binding.clone();
        for _ in 0..TRIES {
            match finalizer::note(self.client.clone(), &current, &BTreeSet::new(), LIMIT).await {
                Ok(()) => return Ok(true),
                Err(NoteError::Conflict) => {
                    let api: Api<DopplerPrefectBinding> =
                        Api::namespaced(self.client.clone(), &namespace);
                    match timeout(LIMIT, api.get_opt(&binding.name_any())).await {
                        Ok(Ok(Some(again))) => current = again,
                        Ok(Ok(None)) => return Ok(true),
                        _ => tokio::time::sleep(AGAIN).await,
                    }
                }
                Err(error) => {
                    say(&format!(
                        "warning: binding {namespace}/{}: {error}",
                        binding.name_any()
                    ))?;
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        Ok(false)
    }

    /// The Secret stays; from now on it goes with its binding, or, if it is to be kept or still in use, with nobody.
    async fn settle(
        &self,
        binding: &DopplerPrefectBinding,
        namespace: &str,
        name: &str,
        in_use: bool,
    ) -> Result<(), WriteError> {
        let uid = binding.metadata.uid.as_deref().unwrap_or_default();
        let Some(found) = self.secrets.get(namespace, name).await? else {
            return Ok(());
        };
        if !found.facts.belongs_to(uid) {
            return Ok(());
        }
        let keep = self.keep_secrets
            || in_use
            || binding.spec.managed_secret.deletion_policy == DeletionPolicy::Retain;
        if keep {
            self.secrets
                .release(namespace, name, &found.facts, uid)
                .await?;
        } else {
            self.secrets
                .own(
                    namespace,
                    name,
                    &found.facts,
                    &owner_reference(&binding.name_any(), uid),
                )
                .await?;
        }
        Ok(())
    }
}

/// Whether somebody else wrote the entry, as the status last said.
fn is_theirs(binding: &DopplerPrefectBinding, entry: &Noted) -> bool {
    let pools = binding.status.iter().flat_map(|status| &status.work_pools);
    pools
        .into_iter()
        .any(|pool| pool.name == entry.pool && pool.state == Some(WorkPoolState::AlreadyPresent))
}

fn names(secrets: &BTreeSet<String>) -> String {
    secrets
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}
