//! Failures of Prefect and Doppler: what the status reports, which values remain, and recovery.

mod block;
mod doppler_failures;
mod doppler_rejections;
mod event_socket;
mod health;
mod oldest_prefect;
mod prefect;
mod services;

use std::collections::BTreeMap;

use testkit::doppler::RecordedRequest;

use crate::world::{pairs, secret};

/// The values with which each test of this module starts.
fn good() -> BTreeMap<String, String> {
    pairs(&[("A", secret("good"))])
}

/// Selects requests with this token.
fn with(token: &str) -> impl Fn(&RecordedRequest) -> bool + Send + Sync + 'static {
    let token = token.to_owned();
    move |call| call.uses_token(&token)
}
