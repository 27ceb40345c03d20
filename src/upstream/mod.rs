//! Machinery that both upstreams share. It knows neither Prefect nor Doppler.

pub mod backoff;
pub mod change_feed;
pub mod limiter;
pub mod poller;
pub mod rate_headers;
pub mod subscription;
pub mod trigger;
