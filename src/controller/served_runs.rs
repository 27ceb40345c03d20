//! Declares the flow runs that a binding serves, and what they get.
//!
//! Input: a pass, its resolution, and what was written to the Secret.
//! Output: a declaration in the registry of runs.
//! Invariants: without runs to serve, nothing is declared. What runs get is what the Secret holds, not
//! what Doppler returned last.

use std::sync::Arc;

use jiff::Timestamp;

use super::{pass::Pass, resolution::Resolution};
use crate::{
    runs::{Content, Served, selectors},
    status::SecretContent,
};

/// Declares the flow runs that the binding serves. Without a connection, those of the last pass stay.
pub fn declare(pass: &Pass<'_>, resolution: &Resolution) {
    let runs = &pass.context.runs;
    let spec = &pass.binding.spec;
    let selectors = selectors(spec);
    match &resolution.connection {
        _ if selectors.is_empty() => runs.remove(pass.key),
        Some(connection) => {
            let served = Served {
                server: Arc::clone(connection),
                selectors,
                refreshes: spec.refresh_on_run(),
            };
            runs.declare(pass.key, served);
        }
        None => {}
    }
}

/// Declares what runs that start now get from the Secret: what was written, or else what the last
/// status says.
pub fn declare_content(pass: &Pass<'_>, written: Option<&SecretContent>) {
    let status = pass.last_status();
    let last = status.and_then(|status| status.content_hash.clone());
    let hash = written.map(|content| content.hash.clone());
    let is_new = hash.is_some() && hash != last;
    let since = status.and_then(|status| Some(status.last_change_time.as_ref()?.0));
    let content = hash.or(last).filter(|_| pass.secret_exists());
    let content = content.map(|hash| Content {
        secret: pass.binding.secret_name().to_owned(),
        hash,
        since: if is_new {
            Some(Timestamp::now())
        } else {
            since
        },
    });
    pass.context.runs.set_content(pass.key, content);
}
