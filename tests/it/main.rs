//! The operator on real parts: etcd, kube-apiserver, kube-controller-manager and a Prefect server, with the stand-in for Doppler. One binary, so
//! that the servers are started once.
//!
//! `world` is what every test stands in; every other module is a chapter of what the operator promises.

// What a test would do in its own function, its helpers may do as well.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]
// A story is told in one piece.
#![allow(clippy::too_many_lines)]

mod apiserver;
mod bench;
mod canary;
mod chart;
mod check;
mod cleanup;
mod crd;
mod doppler_webhook;
mod feeds;
mod image;
mod leader_election;
mod pools;
mod runs;
mod scale;
mod secrets;
mod upstream;
mod work_pools;
mod world;
