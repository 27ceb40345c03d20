//! Reports errors that end the process, and panics.
//!
//! Input: an error, or a panic.
//! Output: a line of the log in its format, or of standard error before the log is started.
//! Invariants: the message of a panic is never written, because it may contain a value.

use std::{error::Error, io::Write, panic};

use tracing::{dispatcher, error};

use crate::printable::{MAX_MESSAGE_BYTES, one_line};

/// Reports an error that ends the process.
pub fn report_fatal(error: &dyn Error) {
    if dispatcher::has_been_set() {
        error!(%error, "the process ends");
    } else {
        // Nothing can be done if standard error is closed.
        let message = one_line(&error.to_string(), MAX_MESSAGE_BYTES);
        let _ = writeln!(std::io::stderr(), "error: {message}");
    }
}

/// From now on a panic is reported with its place in the source only.
pub fn report_panics() {
    panic::set_hook(Box::new(|panicked| {
        let place = panicked.location().map(ToString::to_string);
        let place = place.as_deref().unwrap_or("an unknown place");
        if dispatcher::has_been_set() {
            error!(place, "a panic");
        } else {
            let _ = writeln!(std::io::stderr(), "error: a panic at {place}");
        }
    }));
}
