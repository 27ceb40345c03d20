//! The findings of a check, one line each.
//!
//! Input: results of the checks of one binding.
//! Output: lines of text, JSON, and whether one of them is a failure.
//! Invariants: no line contains a secret value. Only a diff has several lines; a name ends none.

use std::fmt;

use serde::Serialize;

use crate::printable::{self, one_line};

/// Longest line, in bytes. A config has up to 1,200 names.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Ok,
    Note,
    Fail,
}

/// The findings about one binding.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Findings {
    /// The binding or the file that they are about.
    pub title: String,
    #[serde(rename = "findings")]
    entries: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    severity: Severity,
    topic: String,
    text: String,
    /// Further lines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<String>,
}

impl Findings {
    /// Adds a finding that works.
    pub fn ok(&mut self, topic: &str, text: &str) {
        self.add(Severity::Ok, topic, text);
    }

    /// Adds a finding that works, with a text of several lines.
    pub fn ok_with_details(&mut self, topic: &str, text: &str, details: &str) {
        self.add(Severity::Ok, topic, text);
        if let Some(finding) = self.entries.last_mut() {
            finding.details = details.lines().map(detail).collect();
        }
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
            .any(|finding| finding.severity == Severity::Fail)
    }

    fn add(&mut self, severity: Severity, topic: &str, text: &str) {
        self.entries.push(Finding {
            severity,
            topic: printable::name(topic),
            text: one_line(text, MAX_LINE_BYTES),
            details: Vec::new(),
        });
    }
}

/// A line of a diff, which keeps its indentation.
fn detail(line: &str) -> String {
    let text = line.trim_start_matches(['+', '-', ' ']);
    let (indent, _) = line.split_at(line.len() - text.len());
    format!("{indent}{}", one_line(text, MAX_LINE_BYTES))
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", one_line(&self.title, MAX_LINE_BYTES))?;
        for finding in &self.entries {
            let severity = match finding.severity {
                Severity::Ok => "ok  ",
                Severity::Note => "note",
                Severity::Fail => "FAIL",
            };
            writeln!(f, "  {severity}  {}: {}", finding.topic, finding.text)?;
            for line in &finding.details {
                writeln!(f, "        {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_line_break_begins_no_finding() {
        let mut findings = Findings {
            title: "binding\n  ok    forged: x".to_owned(),
            ..Findings::default()
        };
        findings.fail(
            "work pool a\n  ok  ",
            "no work pool a\n  ok    spec: valid\u{2028}",
        );
        findings.ok_with_details("pool", "would change:", "@@ -1 +1 @@\n+  \"a\u{202e}\"\n");
        let expected = concat!(
            "binding   ok    forged: x\n",
            "  FAIL  work pool a   ok: no work pool a   ok    spec: valid\n",
            "  ok    pool: would change:\n",
            "        @@ -1 +1 @@\n",
            "        +  \"a\"\n",
        );
        assert_eq!(findings.to_string(), expected);
    }
}
