//! What a check found, line by line.

use std::fmt;

/// How a line is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Well,
    Note,
    Wrong,
}

/// The lines of one binding.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// What they speak of.
    pub title: String,
    lines: Vec<(Mark, String, String)>,
}

impl Lines {
    /// This would work.
    pub fn well(&mut self, what: &str, text: &str) {
        self.put(Mark::Well, what, text);
    }

    /// This is good to know.
    pub fn note(&mut self, what: &str, text: &str) {
        self.put(Mark::Note, what, text);
    }

    /// This would not work.
    pub fn wrong(&mut self, what: &str, text: &str) {
        self.put(Mark::Wrong, what, text);
    }

    /// Whether anything would not work.
    pub fn has_wrong(&self) -> bool {
        self.lines.iter().any(|(mark, ..)| *mark == Mark::Wrong)
    }

    fn put(&mut self, mark: Mark, what: &str, text: &str) {
        self.lines
            .push((mark, what.to_owned(), text.trim_end().to_owned()));
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for (mark, what, text) in &self.lines {
            let mark = match mark {
                Mark::Well => "ok  ",
                Mark::Note => "note",
                Mark::Wrong => "FAIL",
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
