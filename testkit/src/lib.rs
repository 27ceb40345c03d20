//! What tests, demo and benchmarks share.

mod background;
pub mod doppler;
pub mod network;
