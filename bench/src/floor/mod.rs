//! The floor: a minimal client that makes the same writes as the subject.
//!
//! Input: the writes of the subject for one resource, and a concurrency. Output: the same writes
//! for all other resources.
//! Invariants: the client sends two writes for each resource, and no read and no retry. It has the
//! service account of the subject, so that the API server queues and counts its requests in the
//! same way.
//!
//! Reading order: `recorded` copies the writes, `requests` builds the requests, `client` sends
//! them, `calibration` finds the fastest concurrency.

mod calibration;
mod client;
mod recorded;
mod requests;

pub use calibration::{Calibration, calibrate};
pub use client::Floor;
