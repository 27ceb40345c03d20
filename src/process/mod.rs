//! The process: arguments become tasks.
//!
//! Input: the arguments.
//! Output: telemetry, the HTTP servers, and the tasks of the controller manager. The process ends on
//! a signal, or when a task ends.
//! Invariants: nothing here knows what a reconcile does.
//!
//! In reading order: [`run`] (what every replica does), [`leader_election`] (which replica leads),
//! [`manager`] (what the leader runs), [`upstreams`], `dispatch` and `run_starts` (what reads the
//! upstreams, and what triggers it), [`doppler_webhook`] and
//! [`webhook_handlers`] (webhooks), `metrics_port` (TLS and
//! authorization of metrics), and what they need.

mod certificate_dir;
mod descriptors;
mod dispatch;
pub mod doppler_webhook;
pub mod fatal;
pub mod leader_election;
pub mod manager;
mod metrics_access;
mod metrics_port;
pub mod run;
mod run_starts;
mod scope_watch;
mod serve;
pub mod server;
mod spare_descriptor;
pub mod tasks;
pub mod telemetry;
pub mod upstreams;
pub mod webhook_handlers;
