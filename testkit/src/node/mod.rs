//! A node that runs pods as local processes: pods of Jobs, and of Deployments or without an owner if it
//! knows their image.
//!
//! Input: a cluster, and the substitutes for images and network.
//! Output: a Node object; pods that are bound to it, run, and report their status as a kubelet
//! does; for each pod its log and the names of its environment variables.
//! Invariants: the node takes only pods without a node, and runs only the first container: no init
//! containers or probes, no volumes but those of Secrets, and restarts only for policy `Always`. A
//! container with such a volume runs in a mount namespace of its own: as root, or else in a user
//! namespace, which the machine has to allow. It shows a value of
//! an environment only to a test that asks for it by name.

mod atomic_writer;
mod context;
mod environment;
mod expand;
mod pod;
mod process;
mod process_node;
mod records;
mod status;
mod volumes;
mod watch;

pub use context::{Image, NodeOptions};
pub use environment::{Environment, References, Sources, command_line, resolve};
pub use expand::expand;
pub use process_node::ProcessNode;
pub use records::PodRecord;
pub use volumes::{File, Mount, SecretVolume, secret_volumes};
