//! Puts Secrets into the environment of job pods, and files into the pods, by way of the base job
//! templates of work pools.
//!
//! Input: the claims of bindings on the work pools of a Prefect server.
//! Output: base job templates with our entries, and an observation for each claim.
//! Invariants: reads no secret value; writes no pool that another object owns or whose jobs run
//! elsewhere.

pub mod claim;
mod job_environment;
pub mod job_labels;
mod job_volumes;
mod json_text;
mod manual_patch;
pub mod plan;
pub mod pool_owner;
pub mod pools;
mod rendering;
pub mod template;

pub use manual_patch::patch_text;
pub use pools::Pools;
