//! One definition of a Prefect server for many namespaces: who may use what, what a change of it
//! causes, and what remains without it.
//!
//! Input: a proxy in front of the real Prefect server that records requests.
//! Output: the bindings of two teams, their Secrets, pools and conditions, and the recorded requests.
//! Invariants: "nothing sent" is read from the record of the proxy.

mod changes;
mod defaults;
mod fixture;
mod front;
mod lists;
mod local;
