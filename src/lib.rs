//! Brings Doppler secrets into the flow runs of Prefect's Kubernetes work pools.
//!
//! ```text
//! DopplerPrefectBinding ─► Prefect block ─► Doppler config ─► Kubernetes Secret ─► env of Prefect job pods
//!       (crd)               (prefect)          (doppler)          (secret)              (inject)
//!                                     outcome ─► conditions, Event, metric, log (status, report)
//! ```
//!
//! # Reading order
//! 1. [`crd`]: what users write and read.
//! 2. [`reason`] and [`failure`]: the closed list of reasons, and what went wrong in these terms.
//! 3. [`controller`]: the work queue, and the path above as a reconcile. Start at [`controller::reconcile`].
//! 4. [`upstream`]: pollers, subscriptions, rate limiter and backoff, which both upstreams share.
//! 5. [`outbound`], [`prefect`], [`doppler`]: guarded HTTP, and the two upstreams; [`server_access`]: what a
//!    binding may use of a server that many namespaces share.
//! 6. [`secret`]: the Secret, from values to the guarded write.
//! 7. [`inject`]: the entry in the base job template of a work pool; [`runs`]: whose values a flow run
//!    that starts is about to read, and which values it got; [`restart`]: workloads whose pods have older
//!    content.
//! 8. [`status`], [`report`], [`metrics`]: conditions, Events, logs and metrics of an outcome, in
//!    [`printable`] text.
//! 9. [`args`], [`settings`], [`process`]: flags become settings, and settings become tasks;
//!    [`command_line`]: what shells and `man` know of the flags.
//! 10. [`check`], [`environment`], [`refresh`], [`detach`], [`probe`]: the same path from a laptop, its
//!     values there, a read on request, the removal before an uninstall, and the test after an
//!     installation.
//!
//! # Glossary
//! - *binding*: a `DopplerPrefectBinding`; its *key* is its namespace and name.
//! - *block*: a Prefect block document that holds project, config, and token or identity.
//! - *cluster server*: a `ClusterPrefectServer`, one definition of a Prefect server for bindings of many
//!   namespaces; its lists say what they may use. A connection from it is *shared*.
//! - *config*: a Doppler config; a *config key* is everything that decides what a download returns.
//! - *identity*: of Doppler, proven by a token of a service account (a *JWT*) and exchanged for a token
//!   of Doppler with a short life. A *credential* is a token or an identity.
//! - *snapshot*: the values of a config, as one download returned them.
//! - *managed Secret*: the Kubernetes Secret that the operator writes for a binding.
//! - *foreign Secret*: a Secret without the binding's UID. The operator never changes it.
//! - *content hash*: a keyed hash of a Secret's content, by which the operator finds drift.
//! - *excluded key*: a name of the config that is not written, with the reason in the status.
//! - *entry*: one item of `envFrom` in a *base job template*, which names the managed Secret.
//! - *injection*: how job pods get the Secret: by entries in work pools, or by the *admission policy*,
//!   by which the API server adds the Secret to the Jobs that a binding selects.
//! - *variable*: of a work pool, by which a deployment or a run chooses among the Secrets that
//!   bindings *offer* in it (`runs: Selected`).
//! - *troubled pod*: a pod of a flow run that does not start because of a managed Secret.
//! - *claim*: what one binding wants of one work pool.
//! - *upstream*: Prefect or Doppler. A *source* is a typed poller of one of them.
//! - *poller*: reads one block or config for all bindings that subscribe to it.
//! - *subscription*: a long-lived stream that delivers *notifications*; a *feed* is a typed one.
//! - *notification*: says that something changed. It only triggers a re-read.
//! - *demand*: asks a poller for a value that is current now, although nothing says that it changed.
//! - *permit*: allows one request; the *rate limiter* hands permits out by *priority*.
//! - *quota*: how many requests an account may still send.
//! - *circuit breaker*: stops requests to a host that does not answer.
//! - *backoff*: the growing delay after failures.
//! - *failure*: a reason, a message, and when to retry.
//! - *pass*: one reconcile of one binding, and everything that it carries along.
//! - *resolution*: how far block and config of a binding were resolved.
//! - *last good values*: the latest values that Doppler returned; they outlive every failure.
//! - *outcome*: what a pass came to; the conditions follow from it.
//! - *drift*: a difference that another client made, in a Secret or in a template.

pub mod args;
pub mod bounded_json;
pub mod check;
pub mod command_line;
pub mod controller;
pub mod crd;
pub mod detach;
pub mod doppler;
pub mod environment;
pub mod failure;
pub mod inject;
mod kubernetes;
mod linux;
pub mod metrics;
pub mod outbound;
pub mod prefect;
pub mod printable;
pub mod probe;
pub mod process;
pub mod reason;
pub mod refresh;
pub mod refusal;
pub mod report;
pub mod restart;
pub mod runs;
pub mod secret;
pub mod server_access;
pub mod settings;
pub mod status;
pub mod upstream;
