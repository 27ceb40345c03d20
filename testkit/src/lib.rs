//! What tests, demo and benchmarks share.

pub mod cache;
pub mod control_plane;
pub mod folder;
pub mod guard;
pub mod kubernetes;
pub mod node;
pub mod ports;
pub mod prefect;
pub mod progress;
pub mod venv;
pub mod wait;
