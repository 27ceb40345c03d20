//! Brings Doppler secrets into the flow runs of Prefect's Kubernetes work pools.
pub mod args;
pub mod check;
pub mod controller;
pub mod crd;
pub mod doppler;
pub mod inject;
pub mod metrics;
pub mod outbound;
pub mod prefect;
pub mod process;
pub mod reason;
pub mod release;
pub mod report;
pub mod secret;
pub mod source;
pub mod status;
