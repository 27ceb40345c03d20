//! Shared by tests, demo and benchmarks: a control plane, a stand-in for Doppler, a Prefect server,
//! a node that runs pods as processes, and the operator as a process.
//!
//! Input: options, and what the machine has: Go, Python, and servers on its `PATH`.
//! Output: running servers, and clients for them.
//! Invariants: every process ends with the value that stands for it, or with the test process.

pub mod admission;
mod background;
pub mod binary;
pub mod cache;
pub mod control_plane;
pub mod demo;
pub mod doppler;
pub mod folder;
pub mod grant;
pub mod guard;
pub mod helm;
pub mod kubectl;
pub mod kubernetes;
pub mod network;
pub mod node;
pub mod operator;
pub mod ports;
pub mod postgres;
pub mod prefect;
pub mod progress;
pub mod venv;
pub mod wait;
