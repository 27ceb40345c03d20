//! Brings Doppler secrets into the flow runs of Prefect's Kubernetes work pools.
//!
//! ```text
//! DopplerPrefectBinding ─► Prefect block ─► Doppler config ─► Kubernetes Secret ─► env of Prefect job pods
//!       (crd)               (prefect)          (doppler)          (secret)              (inject)
//!                                     outcome ─► conditions, Event, metric, log (status, report)
//! ```
//!
//! In reading order:
//! 1. [`crd`]: what users write and read;
//! 2. [`reason`]: the closed list of reasons, from which condition, Event, metric, log and manual come;
//! 3. [`controller`]: what wakes a binding, and the line above as a reconcile;
//! 4. [`upstream::poller`]: one upstream read for all bindings that ask for the same; [`upstream::limiter`]: when it may be sent; [`upstream::subscription`]: who tells of changes;
//! 5. [`outbound`], [`prefect`], [`doppler`]: the one way out, and the two upstreams;
//! 6. [`secret`]: the Secret, from values to the guarded write;
//! 7. [`inject`]: the entry in a work pool's template;
//! 8. [`status`], [`report`], [`metrics`]: what is told of an outcome;
//! 9. [`args`], [`process`]: arguments become tasks;
//! 10. [`check`], [`detach`]: the same way from a laptop, and before uninstalling.

pub mod args;
pub mod check;
pub mod controller;
pub mod crd;
pub mod detach;
pub mod doppler;
pub mod failure;
pub mod inject;
mod kubernetes;
pub mod metrics;
pub mod outbound;
pub mod prefect;
pub mod process;
pub mod reason;
pub mod report;
pub mod secret;
pub mod status;
pub mod upstream;
