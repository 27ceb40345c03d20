//! Arguments become tasks.
//!
//! In: the arguments. Out: a running process: telemetry, the HTTP servers, the controllers, and an end when it is told to, or when a task dies.
//! Nothing here knows what a reconcile does.

pub mod run;
pub mod server;
pub mod tasks;
pub mod telemetry;
pub mod upstream;
