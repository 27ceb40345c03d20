//! Machinery that both upstreams share.
//!
//! Input: functions that read and connect, from `prefect` and `doppler`.
//! Output: polled values, subscriptions, permits and delays.
//! Invariants: it knows neither Prefect nor Doppler.

pub mod backoff;
pub mod change_feed;
pub mod limiter;
pub mod pace;
pub mod poller;
pub mod rate_headers;
pub mod subscription;
pub mod supervisor;
pub mod trigger;
