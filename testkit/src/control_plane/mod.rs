//! A real Kubernetes control plane: etcd, kube-apiserver and kube-controller-manager.
//!
//! In: the three binaries (`binaries`), and what to have there before the controllers start. Out: a running API
//! server with a client for its administrator. There is no scheduler and no kubelet: pods stay Pending unless
//! somebody plays their node.
//!
//! Reading order: `binaries` finds or builds them, `authority` makes keys and certificates, `start` runs them.

mod authority;
mod binaries;
mod start;

pub use binaries::Binaries;
pub use start::{ControlPlane, Options};

pub(crate) use binaries::{go_version, in_path};

#[cfg(test)]
mod tests;
