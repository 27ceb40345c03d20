//! Restarts workloads whose pods have older content of a Secret.
//!
//! Input: a binding's restart spec, the hash of the content, and the workloads.
//! Output: a decision for each workload, and at most one patch of its pod template.
//! Invariants: a workload restarts only if its pods use the Secret, at most once in the interval, and
//! never twice for the same content: the pod template holds the hash of the content that its pods have.

pub mod client;
pub mod content_hash;
pub mod decide;
pub mod pod_content;
pub mod workload;

pub use client::{RestartError, WorkloadClient};
pub use content_hash::restart_hash;
pub use decide::{Decision, Wanted, decide};
pub use pod_content::PodContent;
pub use workload::Workload;
