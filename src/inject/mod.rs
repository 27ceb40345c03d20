//! Where the Secret is made the environment of job pods.
//!
//! In: what bindings want in which pool of which server. Out: the pool's template with our entries, and for each binding what was found. It never
//! reads a secret value, and never writes a pool that somebody else owns or whose jobs run elsewhere.

pub mod claim;
mod job_environment;
mod json_text;
mod manual_patch;
pub mod plan;
pub mod pool_owner;
pub mod pools;
pub mod template;

pub use job_environment::{
    Environment, JobNamespace, Shadows, job_namespace, other_cluster, shadowed,
};
pub use manual_patch::{operation, patch_text};
pub use pools::Pools;
