//! The placeholders in a text of a base job template.
//!
//! Input: a text.
//! Output: its placeholders, in their order, by the pattern of `prefect.utilities.templating`:
//! `{{\s*([\w\.\-\[\]$]+)\s*}}`.
//! Invariants: pure; takes time in proportion to the text.

/// What replaces a placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A variable of the pool: `{{ namespace }}`.
    Variable,
    /// A block or a Prefect variable: `{{ prefect.blocks.x.y }}`. Only a run resolves it, and also
    /// in the value of a variable.
    Server,
    /// The environment of the worker: `{{ $HOME }}`. Only a run resolves it, and only in the
    /// template itself.
    Environment,
}

/// A placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placeholder<'a> {
    /// With its braces.
    pub(super) whole: &'a str,
    /// The name between them.
    pub(super) name: &'a str,
    pub(super) kind: Kind,
}

/// The placeholders of a text.
pub(super) fn placeholders(text: &str) -> impl Iterator<Item = Placeholder<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = at + text[at..].find("{{")?;
            if let Some(found) = placeholder_at(&text[start..]) {
                at = start + found.whole.len();
                return Some(found);
            }
            at = start + 1;
        }
    })
}

/// The placeholder that is the whole text, without any text around it.
pub(super) fn whole_placeholder(text: &str) -> Option<Placeholder<'_>> {
    placeholder_at(text).filter(|found| found.whole.len() == text.len())
}

fn placeholder_at(text: &str) -> Option<Placeholder<'_>> {
    let inside = text.strip_prefix("{{")?.trim_start_matches(is_space);
    let end = inside.find(|c| !is_name(c)).unwrap_or(inside.len());
    let (name, rest) = inside.split_at(end);
    let rest = rest.trim_start_matches(is_space).strip_prefix("}}")?;
    (!name.is_empty()).then(|| Placeholder {
        whole: &text[..text.len() - rest.len()],
        name,
        kind: kind_of(name),
    })
}

fn kind_of(name: &str) -> Kind {
    if name.starts_with("prefect.blocks.") || name.starts_with("prefect.variables.") {
        Kind::Server
    } else if name.starts_with('$') {
        Kind::Environment
    } else {
        Kind::Variable
    }
}

/// Python's `\s`.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `\w`, and the other characters of a name.
fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']' | '$')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<&str> {
        placeholders(text).map(|found| found.name).collect()
    }

    #[test]
    fn finds_placeholders_as_prefect_does() {
        for (text, expected) in [
            ("{{ a }}-{{b}}", vec!["a", "b"]),
            ("{{{ a }}}", vec!["a"]),
            ("{{ {{ a }} }}", vec!["a"]),
            ("{{ a.b[0]-c }} {{ $HOME }}", vec!["a.b[0]-c", "$HOME"]),
            ("{{\n\ta\u{1f}}}", vec!["a"]),
            ("{{ grüße_1 }}", vec!["grüße_1"]),
            ("{{ a b }} {{}} {{ }} {{ a } } {{ a|b }} {a}", vec![]),
        ] {
            assert_eq!(names(text), expected, "{text}");
        }
    }

    #[test]
    fn only_text_without_surroundings_is_a_whole_placeholder() {
        assert_eq!(whole_placeholder("{{ a }}").unwrap().name, "a");
        for text in [" {{ a }}", "{{ a }} ", "{{ a }}{{ a }}", "x", ""] {
            assert!(whole_placeholder(text).is_none(), "{text}");
        }
    }

    #[test]
    fn distinguishes_what_only_a_run_resolves() {
        let kind = |name| kind_of(name);
        assert_eq!(kind("prefect"), Kind::Variable);
        assert_eq!(kind("prefect.blocks.secret.x"), Kind::Server);
        assert_eq!(kind("prefect.variables.x"), Kind::Server);
        assert_eq!(kind("$X"), Kind::Environment);
    }
}
