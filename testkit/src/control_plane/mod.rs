//! A real Kubernetes control plane: etcd, kube-apiserver and kube-controller-manager.
//!
//! Input: three binaries, and manifests to apply before the controllers start. Output: a running
//! API server, and a client for its administrator.
//! Invariants: no scheduler and no kubelet, so that pods stay Pending unless a node of `node` runs
//! them.
//!
//! Reading order: `version` has the pinned versions, `binaries` finds or builds the binaries with
//! `executable` and `envtest_store`, `authority` creates keys and certificates, `start` runs the
//! servers.

mod authority;
mod binaries;
mod envtest_store;
mod executable;
mod start;
mod version;

pub use binaries::Binaries;
pub use start::{ControlPlane, Options};
pub use version::{VERSION_VARIABLE, Version};

pub(crate) use binaries::go_version;
pub(crate) use executable::in_path;
pub(crate) use version::pinned_version;

#[cfg(test)]
mod tests;
