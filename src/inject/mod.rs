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
    JobEnvironment, JobNamespace, Shadows, find_shadows, job_namespace, targets_other_cluster,
};
pub use manual_patch::{add_operation, patch_text};
pub use pools::Pools;
