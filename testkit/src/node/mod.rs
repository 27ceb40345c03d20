//! A node that runs pods as local processes.
//!
//! Input: the pods of Jobs, and of Deployments with a known image. Output: a Node object, the
//! status of each pod as a kubelet reports it, and for each pod its log and the names in its
//! environment.
//! Invariants: the node runs pods that no other node has bound, and of each only the first
//! container: no volumes, no init containers, no probes, and a restart only with the policy
//! `Always`. It returns a value of an environment only when a test names it.

mod context;
mod environment;
mod expand;
mod pod;
mod process;
mod process_node;
mod records;
mod status;
mod watch;

pub use context::{Image, NodeOptions};
pub use environment::{Environment, References, Sources, command_line, resolve};
pub use expand::expand;
pub use process_node::ProcessNode;
pub use records::PodRecord;
