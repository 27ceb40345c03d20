//! Integration tests: the operator with a real etcd, kube-apiserver, kube-controller-manager and
//! Prefect server, and a stand-in for Doppler.
//!
//! Input: the operator's binary.
//! Output: one test binary, so that all tests share one start of the servers.
//! Invariants: each test has its own [`world`]. Each other module tests one subject.

// Clippy's settings for tests cover test functions, but not their helpers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]
// A test is one sequence of steps.
#![allow(clippy::too_many_lines)]

mod admission;
mod alerts;
mod apiserver;
mod argo_cd;
mod canary;
mod chart;
mod check;
mod cleanup;
mod command_line;
mod crd;
mod doppler_webhook;
mod environment;
mod feeds;
mod identities;
mod image;
mod jobs;
mod leader_election;
mod manual;
mod memory;
mod metrics;
mod migration;
mod mounts;
mod page;
mod pools;
mod quick_start;
mod reference;
mod refresh;
mod restarts;
mod rollback;
mod run_pods;
mod runs;
mod scale;
mod secrets;
mod servers;
mod tasks;
mod threat_model;
mod upstream;
mod work_pools;
mod worker;
mod world;
