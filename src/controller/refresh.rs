//! Requests of users to read block and config now, through the annotation `doppler-prefect.dev/refresh`.
//!
//! Input: a binding with the annotation.
//! Output: one demand of block and config for each new value, and the value for the status once the
//! Secret holds what was read.
//! Invariants: a value is answered once. However often it changes, the pollers bound the reads. A value
//! that the status cannot repeat is reported once, and otherwise ignored.

use tokio::time::Instant;

use super::{
    binding_state::RefreshRequest, pass::Pass, resolution::Resolution, secret::SecretOutcome,
};
use crate::{
    crd::{REFRESH_ANNOTATION, refresh_request},
    reason::Reason,
};

/// Demands block and config if a user asks for it anew. They have to be subscribed already.
pub fn demand(pass: &Pass<'_>) {
    let Some(since) = register(pass) else {
        return;
    };
    pass.context.blocks.demand_since(pass.key, since);
    pass.context.configs.demand_since(pass.key, since);
}

/// Registers the request of the binding. Returns when, if it is new and valid.
fn register(pass: &Pass<'_>) -> Option<Instant> {
    let request = refresh_request(&pass.binding.metadata);
    let text = match &request {
        Ok(text) => (*text)?,
        Err(_) => pass
            .binding
            .metadata
            .annotations
            .as_ref()?
            .get(REFRESH_ANNOTATION)?,
    };
    if is_answered(pass, text) {
        return None;
    }
    let since = Instant::now();
    let is_new = pass.update_state(|state| {
        let is_new = state
            .refresh
            .as_ref()
            .is_none_or(|last| *last.text != *text);
        if is_new {
            let text = text.into();
            state.refresh = Some(RefreshRequest { text, since });
        }
        is_new
    });
    match request {
        Ok(_) => is_new.then_some(since),
        Err(refused) => {
            if is_new {
                pass.emit(Reason::RefreshRefused, &refused.to_string());
            }
            None
        }
    }
}

fn is_answered(pass: &Pass<'_>, text: &str) -> bool {
    let answered = pass
        .last_status()
        .and_then(|status| status.refreshed.as_deref());
    answered == Some(text)
}

/// The value for the status, if the Secret holds what was read since the user asked for it.
#[must_use]
pub fn answer(pass: &Pass<'_>, resolution: &Resolution, secret: &SecretOutcome) -> Option<String> {
    let text = refresh_request(&pass.binding.metadata).ok().flatten()?;
    let since = pass.read_state(|state| {
        let request = state.refresh.as_ref();
        request
            .filter(|request| *request.text == *text)
            .map(|request| request.since)
    })?;
    let is_written = secret.content.is_some();
    (is_written && resolution.is_current(since)).then(|| text.to_owned())
}
