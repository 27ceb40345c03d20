//! The label and the name by which the operator marks its objects.
//!
//! Input: none.
//! Output: constants.
//! Invariants: a released value never changes, because objects in clusters have it.

/// Label on every Secret that the operator writes, with the value [`MANAGED_BY`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`], name of the field manager and of the Event reporter.
pub const MANAGED_BY: &str = "doppler-prefect-operator";
