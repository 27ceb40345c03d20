//! The findings of a check, one line each.
//!
//! Input: results of the checks of one binding.
//! Output: lines of text, and whether one of them is a failure.
//! Invariants: no line contains a secret value.

use std::fmt;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Ok,
    Note,
    Fail,
}

/// The findings about one binding.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The binding or the file that they are about.
    pub title: String,
    entries: Vec<(Severity, String, String)>,
}

impl Findings {
    /// Adds a finding that works.
    pub fn ok(&mut self, topic: &str, text: &str) {
        self.add(Severity::Ok, topic, text);
    }

    /// Adds a finding that is only informative.
    pub fn note(&mut self, topic: &str, text: &str) {
        self.add(Severity::Note, topic, text);
    }

    /// Adds a finding that does not work.
    pub fn fail(&mut self, topic: &str, text: &str) {
        self.add(Severity::Fail, topic, text);
    }

    /// Whether any finding does not work.
    pub fn has_failures(&self) -> bool {
        self.entries
            .iter()
            .any(|(severity, ..)| *severity == Severity::Fail)
    }

    fn add(&mut self, severity: Severity, topic: &str, text: &str) {
        self.entries
            .push((severity, topic.to_owned(), text.trim_end().to_owned()));
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for (severity, topic, text) in &self.entries {
            let severity = match severity {
                Severity::Ok => "ok  ",
                Severity::Note => "note",
                Severity::Fail => "FAIL",
            };
            let mut lines = text.lines();
            writeln!(
                f,
                "  {severity}  {topic}: {}",
                lines.next().unwrap_or_default()
            )?;
            for line in lines {
                writeln!(f, "        {line}")?;
            }
        }
        Ok(())
    }
}
