//! Who may use what of a `ClusterPrefectServer`. Pure.
//!
//! Input: the lists of a `ClusterPrefectServer`, and what a binding names.
//! Output: that the binding may use the server, or the first thing that is not listed.
//! Invariants: what no list names is refused. The message names fields and patterns, and nothing of the
//! credentials.

mod decide;
mod pattern;

pub use decide::{
    Labels, NotAllowed, Request, check_block, check_entry, check_namespace, check_request,
    selects_by_label,
};
