//! Prints findings, for a person or for a program.
//!
//! Input: the findings about each binding, in the order of the files.
//! Output: text, each binding at once, or one JSON document at the end.
//! Invariants: both forms have the same findings.

use std::io::{self, Write};

use serde_json::json;

use super::findings::Findings;
use crate::args::CheckOutput;

/// Prints findings and keeps whether all of them work.
pub(super) struct Output {
    form: CheckOutput,
    all_ok: bool,
    /// For JSON.
    collected: Vec<Findings>,
}

impl Output {
    pub fn new(form: CheckOutput) -> Self {
        Self {
            form,
            all_ok: true,
            collected: Vec::new(),
        }
    }

    /// Adds the findings about one binding.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn add(&mut self, findings: Findings) -> io::Result<()> {
        self.all_ok &= !findings.has_failures();
        match self.form {
            CheckOutput::Text => write!(io::stdout(), "{findings}"),
            CheckOutput::Json => {
                self.collected.push(findings);
                Ok(())
            }
        }
    }

    /// Ends the output. True if no finding is a failure.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn finish(self) -> io::Result<bool> {
        if self.form == CheckOutput::Json {
            let document = json!({"ok": self.all_ok, "bindings": self.collected});
            writeln!(io::stdout(), "{document:#}")?;
        }
        Ok(self.all_ok)
    }
}
