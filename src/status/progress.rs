//! Whether a binding that is not Ready still makes progress, as kstatus reads it. Pure.
//!
//! Input: the condition `Ready`.
//! Output: `Reconciling`, `Stalled` or neither, each present only while it is True.
//! Invariants: the class of the reason alone decides, so that no reason can be forgotten.
//!
//! Flux, `kubectl-applyset` and other clients of kstatus wait while an object is Reconciling, and give
//! up at once if it is Stalled.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::reason::{Class, Reason};

/// Condition: the operator works on the binding, or tries again by itself.
pub const RECONCILING: &str = "Reconciling";
/// Condition: only a change by a user can help.
pub const STALLED: &str = "Stalled";

/// The further condition of a binding with this `Ready`, and its reason, if there is one.
pub(super) fn progress(ready: &Condition) -> Option<(&'static str, Reason)> {
    if ready.status == "True" {
        return None;
    }
    // Another version may have written a reason that this one does not know.
    let reason = Reason::named(&ready.reason).unwrap_or(Reason::Pending);
    if reason == Reason::Suspended {
        // Nothing is done, and nothing is wrong.
        return None;
    }
    match reason.class() {
        Class::WaitForChange | Class::GivenUp => Some((STALLED, reason)),
        Class::Retry | Class::WaitUntil => Some((RECONCILING, reason)),
        // A binding that is being deleted, which clients see by its deletion timestamp.
        Class::Settled => None,
    }
}
