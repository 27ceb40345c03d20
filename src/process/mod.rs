//! Arguments become tasks.
//!
//! In: the arguments. Out: a running process: telemetry, the HTTP servers, the controllers, and an end when it is told to, or when a task dies.
//! In reading order: [`run`] (what every replica does), [`leader`] (which of them leads), [`lead`] (what the leader does), [`upstream`] (what reads, with `links` and `deliver`, by which it is told of changes), [`hooks`] (the door for
//! Doppler's webhooks), and what they need.
//! Nothing here knows what a reconcile does.

mod dispatch;
pub mod doppler_webhook;
mod feeds;
pub mod leader_election;
pub mod manager;
pub mod run;
mod scope_watch;
pub mod server;
pub mod tasks;
pub mod telemetry;
pub mod upstreams;
