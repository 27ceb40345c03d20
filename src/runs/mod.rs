//! Which bindings the start of a flow run concerns.
//!
//! Input: the runs that bindings serve, and the runs that a Prefect server reports.
//! Output: the bindings whose values a run is about to read ([`RunRegistry`]).
//! Invariants: it reads nothing and writes nothing. A run of another server, or one that was reported to
//! other credentials, concerns no binding.

mod registry;
mod selector;

pub use registry::RunRegistry;
pub use selector::{RunSelector, selectors};
