//! What a check found, line by line.

use std::fmt;

/// How a line is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Ok,
    Note,
    Fail,
}

/// The lines of one binding.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What they speak of.
    pub title: String,
    entries: Vec<(Severity, String, String)>,
}

impl Findings {
    /// This would work.
    pub fn ok(&mut self, what: &str, text: &str) {
        self.add(Severity::Ok, what, text);
    }

    /// This is good to know.
    pub fn note(&mut self, what: &str, text: &str) {
        self.add(Severity::Note, what, text);
    }

    /// This would not work.
    pub fn fail(&mut self, what: &str, text: &str) {
        self.add(Severity::Fail, what, text);
    }

    /// Whether anything would not work.
    pub fn has_failures(&self) -> bool {
        self.entries
            .iter()
            .any(|(mark, ..)| *mark == Severity::Fail)
    }

    fn add(&mut self, mark: Severity, what: &str, text: &str) {
        self.entries
            .push((mark, what.to_owned(), text.trim_end().to_owned()));
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for (mark, what, text) in &self.entries {
            let mark = match mark {
                Severity::Ok => "ok  ",
                Severity::Note => "note",
                Severity::Fail => "FAIL",
            };
            let mut rest = text.lines();
            writeln!(f, "  {mark}  {what}: {}", rest.next().unwrap_or_default())?;
            for line in rest {
                writeln!(f, "        {line}")?;
            }
        }
        Ok(())
    }
}
