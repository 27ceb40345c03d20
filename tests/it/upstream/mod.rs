//! Prefect and Doppler when they are not as they should be: what is said, what stays in force, and that it heals by itself.

mod block;
mod faults;
mod prefect;
mod refusals;
mod socket;

use std::collections::BTreeMap;

use testkit::doppler::RecordedRequest;

use crate::world::{pairs, secret};

/// The value that every world of this chapter starts with.
fn good() -> BTreeMap<String, String> {
    pairs(&[("A", secret("good"))])
}

/// Requests with this token.
fn with(token: &str) -> impl Fn(&RecordedRequest) -> bool + Send + Sync + 'static {
    let token = token.to_owned();
    move |call| call.uses_token(&token)
}
