//! What is seen from outside: when the API server shows a write, what it was asked, and what a process uses.
//!
//! Never: a word of the subject about itself.

pub mod ledger;
pub mod process;
pub mod rest;
pub mod watch;
