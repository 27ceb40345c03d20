//! A node that runs pods as local processes: pods of Jobs, and of Deployments or without an owner if it
//! knows their image.
//!
//! Input: a cluster, and the substitutes for images and network.
//! Output: a Node object; pods that are bound to it, run, and report their status as a kubelet
//! does; for each pod its log and the names of its environment variables.
//! Invariants: the node takes only pods without a node, and runs only the first container: no
//! volumes, init containers or probes, and restarts only for policy `Always`. It shows a value of
//! an environment only to a test that asks for it by name.

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
