//! What tests, demo and benchmarks share.

pub mod cache;
pub mod control_plane;
pub mod folder;
pub mod grant;
pub mod guard;
pub mod helm;
pub mod kubernetes;
pub mod operator;
pub mod ports;
pub mod progress;
pub mod wait;
