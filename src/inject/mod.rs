//! Where the Secret is made the environment of job pods.
//!
//! In: what bindings want in which pool of which server. Out: the pool's template with our entries, and for each binding what was found. It never
//! reads a secret value, and never writes a pool that somebody else owns or whose jobs run elsewhere.

pub mod claim;
pub mod managed;
mod paste;
pub mod plan;
pub mod pools;
mod raw;
mod reading;
pub mod template;

pub use paste::{operation, patch_text};
pub use pools::Pools;
pub use reading::{Environment, JobNamespace, Shadows, job_namespace, other_cluster, shadowed};
