//! What a template may contain: names, filters and conditions.
//!
//! Input: the text of a template.
//! Output: the first part that it may not contain.
//! Invariants: pure. Without lists, loops, variables, functions and `*`, no value of a template is larger
//! than its names and filters make it. The engine counts its instructions, but it prints, compares and
//! joins a list of a hundred million items in one of them.

use minijinja::{
    machinery::{Token, tokenize},
    syntax::SyntaxConfig,
};

/// The blocks of conditions. The lexer handles `raw` itself.
const BLOCKS: [&str; 4] = ["if", "elif", "else", "endif"];

/// The first part that a template may not contain, and its line. A template that cannot be split into
/// tokens is one with a syntax error, which the parser reports.
pub(super) fn forbidden_part(source: &str, syntax: SyntaxConfig) -> Option<(usize, String)> {
    let mut is_block = false;
    for token in tokenize(source, false, syntax) {
        let (token, span) = token.ok()?;
        let part = match &token {
            Token::Ident(name) if is_block && !BLOCKS.contains(name) => Some(*name),
            Token::Mul => Some("*"),
            Token::Pow => Some("**"),
            Token::BracketOpen => Some("["),
            Token::BraceOpen => Some("{"),
            _ => None,
        };
        if let Some(part) = part {
            return Some((span.start_line.into(), part.to_owned()));
        }
        is_block = matches!(token, Token::BlockStart);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(source: &str) -> Option<(usize, String)> {
        forbidden_part(source, SyntaxConfig::default())
    }

    #[test]
    fn names_filters_and_conditions_are_allowed() {
        for source in [
            "a * b [c] {d} ** \n",
            "{{ A }}{{- B|default('*[{') -}}{# [1] * 2 #}",
            "{% if A is defined and A != '[' %}x{% elif B %}y{% else %}z{% endif %}",
            "{%- if (A ~ B)|upper == \"x\" -%}{%- endif -%}",
            "{% raw %}{{ [1] * 2 }}{% for x in y %}{% endraw %}",
            "{{ A.for }}{{ for }}",
        ] {
            assert_eq!(part(source), None, "{source}");
        }
    }

    #[test]
    fn everything_that_makes_lists_or_repeats_is_forbidden() {
        for (source, line, expected) in [
            ("{{ A * 2 }}", 1, "*"),
            ("\n{{ 2 ** 3 }}", 2, "**"),
            ("{{ [A] }}", 1, "["),
            ("{{ A[0] }}", 1, "["),
            ("{{ {'a': A} }}", 1, "{"),
            ("x\ny{%- for a in A -%}", 2, "for"),
            ("{% set a = A %}", 1, "set"),
            ("{% macro f() %}", 1, "macro"),
            ("{% with a = A %}", 1, "with"),
            ("{% filter upper %}", 1, "filter"),
            ("{% include A %}", 1, "include"),
        ] {
            let found = part(source);
            assert_eq!(found, Some((line, expected.to_owned())), "{source}");
        }
    }
}
