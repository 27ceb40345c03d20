//! The closed list of reasons, each with its class and its section of the manual.
//!
//! Input: none.
//! Output: [`Reason`], what the operator does next ([`Class`]), and `docs/reasons.md` ([`manual`]).
//! Invariants: conditions, Events, metric labels and logs use the same word for the same reason;
//! this file decides nothing.

mod class;
mod manual;

use std::fmt;

pub use class::Class;
pub use manual::manual;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident, $class:ident, $effect:literal, $fix:literal;)*) => {
        /// Why a condition has its status.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[doc = $doc])* $name,)* }

        impl Reason {
            /// All reasons, in the order of the manual.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word in condition, Event, metric label and log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What the operator does next.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }

            /// The cause, for the manual.
            #[must_use]
            pub const fn cause(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)*).trim_ascii(),)* }
            }

            /// The effect, for the manual.
            #[must_use]
            pub const fn effect(self) -> &'static str {
                match self { $(Self::$name => $effect,)* }
            }

            /// The fix, for the manual.
            #[must_use]
            pub const fn fix(self) -> &'static str {
                match self { $(Self::$name => $fix,)* }
            }
        }
    };
}

reasons! {
    /// The Secret and every work pool match the binding.
    Ready, Settled,
        "The Secret and every pool entry are in place.",
        "Nothing to do.";
    /// The operator has project, config and token: from the block, or all three from the binding
    /// itself.
    Resolved, Settled,
        "Everything is in place.",
        "Nothing to do.";
    /// The Secret holds the latest values from Doppler.
    Synced, Settled,
        "The Secret is current.",
        "Nothing to do.";
    /// Every work pool that the binding names has an entry for the Secret, and the admission policy adds
    /// it to the Jobs that the binding selects.
    Injected, Settled,
        "Every pool entry is in place, and new Jobs get the Secret.",
        "Nothing to do.";
    /// The operator waits for the first answer from an upstream.
    Pending, Retry,
        "The Secret and the pool entries stay as they are.",
        "Wait a moment. If the reason stays, check the operator's log.";
    /// `spec.suspend` is true.
    Suspended, WaitForChange,
        "The Secret and the pool entries stay as they are.",
        "Set `spec.suspend` to false to resume.";
    /// The binding is being deleted. The operator removes its pool entries, waits until workers have
    /// reloaded the templates, and deletes the Secret.
    Deleting, Settled,
        "Runs that start now may get the values no longer.",
        "Nothing to do. If the reason stays, the message says what the operator waits for, and for how long.";
    /// `detach` removed the operator's entries and finalizers before an uninstall.
    Detached, WaitForChange,
        "No work pool has the Secret, which stays with its last values.",
        "Start the operator again, or delete the binding.";
    /// The operator cannot read the binding's spec, or a field of it is invalid.
    InvalidSpec, WaitForChange,
        "The Secret and the pool entries stay as they are.",
        "Correct what the message names.";
    /// A Secret, a ConfigMap or a key that the binding refers to does not exist.
    ReferenceMissing, WaitForChange,
        "The Secret keeps its last good values.",
        "Create the object or the key that the message names, in the binding's namespace.";
    /// A value that the binding refers to is unusable: it is empty, is not text, or is not a
    /// certificate.
    ReferenceInvalid, WaitForChange,
        "The Secret keeps its last good values.",
        "Correct the value of the key that the message names.";
    /// The operator's flags do not allow this host or Service, or it is of a kind that the operator
    /// always rejects, such as a Service of type `ExternalName`.
    HostNotAllowed, WaitForChange,
        "The Secret keeps its last good values. The operator sends no request to that host.",
        "Correct the host, or add it to the operator's `--allowed-prefect-host`, `--allowed-prefect-service` or `--allowed-doppler-host`.";
    /// The `ClusterPrefectServer` that the binding uses does not list its namespace, its block or one of
    /// its work pools.
    ServerNotAllowed, WaitForChange,
        "The Secret keeps its last values, and pool entries stay. The operator sends nothing to that server for the binding.",
        "Correct what the message names, or let the owner of the `ClusterPrefectServer` add it to the list.";
    /// The `ClusterPrefectServer` that the binding uses does not exist, or the operator cannot read it.
    ServerNotFound, WaitForChange,
        "The Secret keeps its last values, and pool entries stay. The operator sends nothing to that server for the binding.",
        "Create the `ClusterPrefectServer`, correct `spec.prefect.serverRef.name`, or set the chart value `clusterServers.enabled`.";
    /// The operator has no permission to read the Service of the Prefect server, so it cannot rule
    /// out that the Service leads out of the cluster.
    ServiceForbidden, Retry,
        "The Secret keeps its last good values. The operator sends no request to that Service.",
        "Grant the operator's service account `get` on Services in the namespace that the message names; the chart does so for `operator.allowedPrefectServices`.";
    /// The binding sets another project or config than its block names, and the operator's flag
    /// `--block-overrides=deny` forbids to use the block's token for it.
    OverrideNotAllowed, WaitForChange,
        "The Secret keeps its last good values.",
        "Remove the field that the message names, or set `spec.doppler.accessToken` or `spec.doppler.identity`.";
    /// The Prefect server cannot be reached, does not answer in time, or answers with a server
    /// error.
    PrefectUnreachable, Retry,
        "The Secret keeps its last good values, and the pool entries stay.",
        "Check the Prefect server, its Service and the network policies.";
    /// The Prefect server rejected the credentials (401).
    PrefectUnauthorized, WaitForChange,
        "The Secret keeps its last good values.",
        "Correct `spec.prefect.server.apiKey` or `basicAuth`: self-hosted servers take `basicAuth`, Prefect Cloud takes `apiKey`.";
    /// The credentials have no permission to read blocks (403).
    PrefectForbidden, WaitForChange,
        "The Secret keeps its last good values.",
        "Add the permission that the message names to the API key's role.";
    /// The Prefect server limits the rate of requests (429).
    PrefectRateLimited, WaitUntil,
        "The Secret keeps its last good values.",
        "Raise `refreshInterval`, or raise the account's limit.";
    /// The answer is not from a Prefect API: the base URL is wrong, or a proxy in front of the
    /// server answered.
    PrefectWrongUrl, WaitForChange,
        "The Secret keeps its last good values.",
        "Correct `spec.prefect.server`: the URL must be that of the API, and must not redirect.";
    /// The Prefect server sent an answer that the operator does not expect.
    PrefectError, Retry,
        "The Secret keeps its last good values.",
        "Check the Prefect server's log at the time of the condition.";
    /// The block document or the block type does not exist.
    BlockMissing, WaitForChange,
        "The Secret keeps its last good values.",
        "Create the block, or correct `spec.prefect.block`.";
    /// The block's data does not hold project, config and access token in a known shape.
    BlockInvalid, WaitForChange,
        "The Secret keeps its last good values.",
        "Store an object with `project`, `config` and `access_token` in the block, or set `spec.prefect.block.pointer`.";
    /// The server returned the block's values as `********`: the credentials have no permission to
    /// read them, or the block is corrupted.
    BlockMasked, WaitForChange,
        "The Secret keeps its last good values.",
        "Add the permission \"View secret block data\" to the API key's role. If the role has it, save the block again.";
    /// The project, the config or the token is missing or empty.
    BlockIncomplete, WaitForChange,
        "The Secret keeps its last good values.",
        "Set the field that the message names, in the block or under `spec.doppler`.";
    /// Doppler cannot be reached, does not answer in time, or answers with a server error.
    DopplerUnreachable, Retry,
        "The Secret keeps its last good values.",
        "Check the network path to Doppler and Doppler's status page.";
    /// Doppler rejected the token (401).
    DopplerUnauthorized, WaitForChange,
        "The Secret keeps its last good values.",
        "Store a valid token in the block, or in the Secret that the binding refers to.";
    /// The token or the identity has no access to this project or config.
    DopplerForbidden, WaitForChange,
        "The Secret keeps its last good values.",
        "Use a token that can read this config, or name the config that the token can read. Of an identity, give its service account in Doppler access to the project.";
    /// The service account that proves a Doppler identity does not exist.
    ServiceAccountMissing, WaitForChange,
        "The Secret keeps its last good values.",
        "Create the service account in the binding's namespace, or correct `spec.doppler.identity.serviceAccountRef.name`.";
    /// The API server gives no token of the service account that proves a Doppler identity: the
    /// operator has no permission to request it, or a policy refuses the request.
    ServiceAccountTokenRefused, WaitForChange,
        "The Secret keeps its last good values.",
        "Add the name of the service account to `identities.serviceAccounts` of the chart, or follow the API server's answer in the message.";
    /// Doppler does not accept the service account's token for the identity, or rejects the token that it
    /// gave for it. The message has the issuer, the audience and the subject that were sent.
    IdentityRefused, WaitForChange,
        "The Secret keeps its last good values.",
        "Compare issuer, audience and subject in the message with the claim rules of the identity in Doppler, and the id with `spec.doppler.identity.id` or the block's `identity`. Doppler must be able to reach the issuer.";
    /// The plan of the Doppler workplace has no identities.
    IdentityNotInPlan, WaitForChange,
        "The Secret keeps its last good values.",
        "Use the Team or Enterprise plan, or `spec.doppler.accessToken` in place of `spec.doppler.identity`.";
    /// Doppler has no such project or config, or hides it from this token.
    ConfigMissing, WaitForChange,
        "The Secret keeps its last good values. The operator never deletes a Secret for this reason.",
        "Correct the project and the config.";
    /// Doppler limits the rate of requests (429).
    DopplerRateLimited, WaitUntil,
        "The Secret keeps its last good values.",
        "Raise `refreshInterval`, or use fewer distinct tokens and configs.";
    /// Doppler sent an answer that the operator does not expect.
    DopplerError, Retry,
        "The Secret keeps its last good values.",
        "Check that `spec.doppler.host` is the address of Doppler's API.";
    /// The answer, or the headers of the response, are larger than the operator's limit.
    AnswerTooLarge, WaitForChange,
        "The Secret keeps its last good values.",
        "Make the config or the block smaller, or find the proxy that adds the headers.";
    /// The answer lacks `DOPPLER_PROJECT`, `DOPPLER_CONFIG` or `DOPPLER_ENVIRONMENT`, which every
    /// config has and which earlier answers had.
    ConfigIncomplete, WaitForChange,
        "The Secret keeps its last good values, however often the answer comes.",
        "Check that `spec.doppler.host` is the address of Doppler's API, and what answers there.";
    /// The answer lacks more than half of the names of the one before, and at least five. The
    /// message lists them. The operator rejects the answer until the next poll confirms it.
    NamesLost, WaitForChange,
        "The Secret keeps its last good values for one more interval.",
        "If the names should not be gone, restore them in Doppler.";
    /// The answer has no values and would empty a Secret that has content. The operator rejects it
    /// until the next poll gives the same answer.
    EmptyAnswer, Retry,
        "The Secret keeps its last good values.",
        "If the config should not be empty, check it in Doppler, and check `include` and `exclude`.";
    /// `spec.doppler.onConflict` is `Refuse`, and two configs have the same name, or a rename gives a
    /// key the name of another one. The message names the keys and the configs.
    KeyConflict, WaitForChange,
        "The Secret keeps its last good values.",
        "Set `prefix` or `exclude` in an item of `spec.doppler.configs`, choose another name in `rename`, or set `onConflict` to `Later`.";
    /// A file of the Secret cannot be made: its template has an error, or names a value that does not
    /// exist, or the keys do not fit into its format. The message names file, line and name.
    TemplateInvalid, WaitForChange,
        "Both Secrets keep their last good content.",
        "Correct the file in `spec.managedSecret.files`, or add the value in Doppler.";
    /// The Secret lacks a key that `spec.managedSecret.type` needs, or the key has other content than
    /// the type needs.
    SecretTypeIncomplete, WaitForChange,
        "Both Secrets keep their last good content.",
        "Add the key that the message names, or change `spec.managedSecret.type`.";
    /// The values do not fit into a Kubernetes Secret (1 MiB).
    SecretTooLarge, WaitForChange,
        "The Secret keeps its last good values.",
        "Select fewer values with `include` or `exclude`, or split the config.";
    /// A Secret of this name exists, and the operator does not manage it.
    SecretForeign, WaitForChange,
        "The existing Secret stays untouched.",
        "Choose another `managedSecret.name`, or delete that Secret. If no controller owns it, the binding can adopt it: set `managedSecret.adopt: true`, and annotate the Secret as the message says.";
    /// Another binding manages the Secret of this name.
    SecretClaimed, WaitForChange,
        "The Secret stays with the other binding.",
        "Choose another `managedSecret.name`. When the other binding is deleted, this one takes the Secret over.";
    /// The Secret is immutable, so the operator cannot update it.
    SecretImmutable, WaitForChange,
        "The Secret stays as it is.",
        "Delete the Secret. The operator creates it again at once.";
    /// A Secret of this name exists with another type than `spec.managedSecret.type` says. Kubernetes
    /// never changes the type of a Secret.
    SecretWrongType, WaitForChange,
        "The Secret stays as it is.",
        "Delete that Secret, and the operator creates it again at once, or choose another `managedSecret.name`.";
    /// Another client keeps changing the Secret. The operator repairs it with backoff.
    SecretContested, Retry,
        "The operator repairs the Secret at growing intervals.",
        "Find the other client: `kubectl -n NAMESPACE get secret NAME --show-managed-fields -o yaml`.";
    /// The operator has no permission for this request on Secrets in this namespace.
    SecretForbidden, Retry,
        "The Secret stays as it is.",
        "Bind the chart's Role in this namespace to the operator's service account.";
    /// An admission policy or webhook of the cluster rejects the Secret. The message names it and
    /// repeats its own sentence.
    SecretRejected, WaitForChange,
        "The Secret stays as it is.",
        "Change the binding so that the Secret obeys the policy (`managedSecret.labels` and `annotations`, `doppler.include` and `exclude`), or ask the administrator of the policy to allow it.";
    /// A `ResourceQuota` allows no further Secret in this namespace. The message names it.
    QuotaExceeded, WaitForChange,
        "The Secret does not exist, or stays as it is.",
        "Delete Secrets in the namespace, or raise the quota.";
    /// The API server, a policy or an older CRD refuses the status of the binding. The message has
    /// its answer.
    StatusRefused, Retry,
        "Secret and pools are served, but the status of the binding does not show it. If a shorter status is accepted, it has the conditions only.",
        "Apply the CRD of this version, grant the operator's service account `patch` on dopplerprefectbindings/status, or ask the administrator of the policy to allow it.";
    /// The API server did not accept the write of the Secret or of the binding's finalizer.
    KubernetesError, Retry,
        "The Secret stays as it is. Without the finalizer, no further work pool gets the entry, and a deleted binding with the finalizer stays.",
        "Check the message and the API server. The operator tries again.";
    /// The operator has no permission to list what a namespace holds, so it serves no binding there.
    NamespaceForbidden, Retry,
        "Secret and pools stay as they are.",
        "Create the chart's Role in the namespace again with `helm upgrade`.";
    /// The namespace is terminating, so the operator writes nothing into it.
    NamespaceTerminating, WaitForChange,
        "Kubernetes deletes the Secret with its namespace. The operator removes the pool entries.",
        "Nothing to do.";
    /// The binding selects Jobs (`spec.inject.jobs`), and the API server has no admission policy that
    /// adds the Secret to them: it does not serve the API, or the policy is not installed. If the
    /// operator has no permission to read the policy, the condition is Unknown.
    AdmissionUnavailable, Retry,
        "Jobs that the binding selects start without the Secret. Pool entries are not affected.",
        "Use Kubernetes 1.36 or newer, or 1.34 with the feature gate that the message names, and set `admission.enabled` of the chart to `true`, or apply `deploy/admission.yaml`.";
    /// The work pool does not exist.
    PoolMissing, WaitForChange,
        "The Secret and the other pools stay as they are.",
        "Create the pool, or correct its name under `inject.workPools`.";
    /// The credentials have no permission (403) to read or edit the work pool, or to list its
    /// deployments, which `optional: false` needs.
    PoolForbidden, WaitForChange,
        "The Secret and the pool stay as they are.",
        "Add the permission that the message names to the API key's role, or set `mode: Observe` and add the entry yourself.";
    /// The pool is not of type kubernetes, its template is empty, the template has a placeholder
    /// where the entry belongs and the default of its variable does not have the entry, or the server
    /// refuses every update of the template.
    PoolNotEditable, WaitForChange,
        "The Secret and the pool stay as they are.",
        "Follow the message, or set `mode: Observe` and add the entry yourself.";
    /// The path of a mount is taken in the pool: its template, or another binding, mounts something
    /// there, or the template has a volume of the operator's name. The message names it.
    PoolMountTaken, WaitForChange,
        "The template stays as it is, and pods do not get the files at this path. The environment is not affected.",
        "Use another `path` in `mount`, or remove from the template what the message names.";
    /// The pool has a variable of its own under the name by which runs should choose the Secret, or
    /// other bindings of the pool use another variable.
    PoolVariableTaken, WaitForChange,
        "The pool stays as it is, and no run can choose the Secret.",
        "Set `variable` as the message says: one name for all bindings of the pool, which is no variable of the pool itself.";
    /// A binding no longer offers its Secret, by removal, by another Secret name or by deletion, and
    /// deployments of the pool choose it. Without the name in the list, Prefect would refuse all their
    /// new runs.
    PoolConfigInUse, WaitForChange,
        "The name stays in the list of the variable, and the Secret exists, until no deployment chooses it, or until `--release-timeout` is over. From then on Prefect refuses new runs of these deployments, or starts them without the values if no other name is left.",
        "Change the variable in the job variables of the deployments that the message and `status.workPools[].usedBy` name.";
    /// The pool's jobs, or with `optional: false` the jobs of some deployment, run in another
    /// namespace, which does not have the Secret.
    PoolOtherNamespace, WaitForChange,
        "The Secret and the pool stay as they are.",
        "Create the binding in the namespace of the pool's jobs, or change the pool's `namespace`.";
    /// The pool has a `cluster_config`, and so may send its jobs to another cluster, which does not
    /// have the Secret.
    PoolOtherCluster, WaitForChange,
        "The Secret and the pool stay as they are.",
        "If the pool's `cluster_config` names this cluster, set `sameCluster: true`. Otherwise run the operator in that cluster, and create a binding there.";
    /// A `PrefectWorkPool` owns the pool's template.
    PoolManaged, WaitForChange,
        "The Secret and the pool stay as they are.",
        "Add the JSON patch from the message to its `spec.baseJobTemplate.patches`.";
    /// Another client keeps removing the entry from the pool's template. The operator restores it
    /// with backoff.
    PoolContested, Retry,
        "The Secret stays. The operator restores the entry at growing intervals.",
        "Find the client that writes the template, add the entry there, and set `mode: Observe`.";
    /// The mode is `Observe`, and no entry of the pool's template names the Secret.
    PoolEntryAbsent, WaitForChange,
        "The Secret and the pool stay as they are.",
        "Add the entry from the message where the template is maintained.";
    /// A pod of a flow run does not start because of the Secret: it waits for the Secret, which does not
    /// exist (`CreateContainerConfigError`), or its process did not start (such as `StartError`),
    /// because all variables together are too large, or because the `PATH` of the Secret does not lead
    /// to the program. The operator knows this only where it may read pods (chart: `runPods.watch`).
    RunPodNotStarted, WaitForChange,
        "The Secret and the pools stay as they are. A pod that waits starts by itself once the Secret exists; a run whose process did not start has crashed.",
        "Follow the message. The condition is True again once the pod has started or is deleted, or, after a failure, once a newer pod has started.";
    /// The pod templates of all workloads in `spec.managedSecret.restart` have the content of the Secret.
    /// As an Event: the operator restarts a workload, because its pods have older content.
    WorkloadRestarted, Settled,
        "The workload's own controller replaces its pods.",
        "Nothing to do.";
    /// A workload has older content, and was restarted less than `minInterval` ago.
    RestartPending, Settled,
        "The workload restarts at the time in the message, once for all changes until then. `Ready` is not affected.",
        "Nothing to do, or a smaller `spec.managedSecret.restart.minInterval`.";
    /// A workload in `spec.managedSecret.restart.targets` does not exist.
    RestartTargetMissing, WaitForChange,
        "The other workloads restart. `Ready` is not affected.",
        "Create the workload in the namespace of the binding, or remove the target.";
    /// The pods of a workload in `targets` do not use the Secret in `env`, `envFrom` or a volume. A binding
    /// restarts only what uses its Secret.
    RestartTargetUnrelated, WaitForChange,
        "The operator does not restart the workload. `Ready` is not affected.",
        "Use the Secret in its pod template, or remove the target.";
    /// The operator may not read or change workloads.
    RestartForbidden, WaitForChange,
        "No workload restarts. `Ready` is not affected.",
        "Set the chart value `rbac.restarts`.";
    /// The API server or a policy rejects the change of a pod template.
    RestartRejected, WaitForChange,
        "The workload does not restart. `Ready` is not affected.",
        "Follow the message.";
    /// The value of the annotation `doppler-prefect.dev/refresh` is too long, or has control
    /// characters.
    RefreshRefused, WaitForChange,
        "The operator does not answer the request. Everything else goes on.",
        "Set the annotation to a text of at most 128 characters, such as the time.";
    /// The operator created the Secret.
    SecretCreated, Settled,
        "The Secret is current.",
        "Nothing to do.";
    /// The operator wrote new content into the Secret.
    SecretUpdated, Settled,
        "The Secret is current.",
        "Nothing to do. Runs that start from now on get the new values.";
    /// Another client changed or deleted the Secret, and the operator restored it from its cache.
    SecretRepaired, Settled,
        "The Secret is current.",
        "Change the value in Doppler instead.";
    /// The block or the binding now names another project or config.
    SourceChanged, Settled,
        "The Secret holds the values of the new config.",
        "Nothing to do if the change was intended.";
    /// The operator added the entry to the pool's template.
    PoolPatched, Settled,
        "The pool entry is in place.",
        "Nothing to do.";
    /// The operator removed the entry from the pool's template.
    PoolReleased, Settled,
        "The pool no longer has the entry.",
        "Nothing to do.";
    /// The binding is deleted although the operator could not clean up its pool. The Secret stays,
    /// so that runs still start.
    CleanupAbandoned, GivenUp,
        "The pool entry stays, and the Secret that it names. With its namespace, Kubernetes deletes the Secret: with `optional: false`, runs of the pool then wait for it.",
        "Remove the entry from the pool's template and delete the Secret. The message names both, the server, and the commands.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
