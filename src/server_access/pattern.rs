//! A pattern of the lists of a `ClusterPrefectServer`. Pure.
//!
//! Input: a pattern, the namespace of a binding, and a name.
//! Output: whether the pattern allows the name.
//! Invariants: every text is a valid pattern. A name of a namespace has no special character, so it
//! stands for itself. What a proxy could take for another path is matched by no special character. The
//! time is at most the product of both lengths.

/// Stands for the namespace of the binding.
const NAMESPACE: &str = "{namespace}";

/// The pattern for the bindings of a namespace.
pub(super) fn for_namespace(pattern: &str, namespace: &str) -> String {
    pattern.replace(NAMESPACE, namespace)
}

/// Whether a special character matches it. No name of a block or a pool has the others, and a proxy or
/// a server may take a part of the name behind them for a part of the path.
const fn is_plain(character: char) -> bool {
    !matches!(character, '/' | '\\' | '%')
}

/// Whether `name` matches `pattern`: `*` is any text, `?` is one character, both without `/`, `\` and `%`.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut seen) = (0, 0);
    // Behind the last star, and the first character that it does not take.
    let mut star: Option<(usize, usize)> = None;
    while seen < name.len() {
        match pattern.get(at) {
            Some('*') => {
                at += 1;
                star = Some((at, seen));
            }
            Some(one) if (*one == '?' && is_plain(name[seen])) || *one == name[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((behind, taken)) = star.filter(|(_, taken)| is_plain(name[*taken])) else {
                    return false;
                };
                star = Some((behind, taken + 1));
                (at, seen) = (behind, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_and_question_marks_match_text() {
        for (pattern, name, expected) in [
            ("k8s-*", "k8s-etl", true),
            ("k8s-*", "k8s-", true),
            ("k8s-*", "xk8s-etl", false),
            ("*-prd", "a-prd-prd", true),
            ("*-prd", "a-prd-stg", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**", "a", true),
            ("[ab]{c,d}", "[ab]{c,d}", true),
            ("[ab]", "a", false),
            ("A*", "a", false),
            ("*", "Größe 👩", true),
            ("team-a-*", "team-a-/../team-b-doppler", false),
            ("team-a-*", "team-a-%2f..%2fteam-b", false),
            ("team-a-*", "team-a-\\..", false),
            ("a?b", "a/b", false),
            ("*b", "a/b", false),
            ("a/*", "a/b", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_namespace_stands_for_itself() {
        let pattern = for_namespace("team-{namespace}-*", "flows");
        assert_eq!(pattern, "team-flows-*");
        assert!(matches(&pattern, "team-flows-doppler"));
        assert!(!matches(&pattern, "team-ml-doppler"));
        // What the documentation warns of.
        assert!(matches(
            &for_namespace("team-{namespace}-*", "a"),
            "team-a-b-doppler"
        ));
        let exact = for_namespace("team-{namespace}-doppler", "a");
        assert!(!matches(&exact, "team-a-b-doppler"));
    }

    proptest! {
        #[test]
        fn agrees_with_the_regular_expression(pattern in "[ab*?./]{0,8}", name in "[ab./]{0,10}") {
            let text = regex::escape(&pattern);
            let text = text.replace(r"\*", "[^/]*").replace(r"\?", "[^/]");
            let regex = regex::Regex::new(&format!("^{text}$")).unwrap();
            prop_assert_eq!(matches(&pattern, &name), regex.is_match(&name));
        }

        #[test]
        fn a_pattern_without_special_characters_matches_itself_only(
            pattern in "[a-z-]{0,12}", name in "[a-z-]{0,12}",
        ) {
            prop_assert_eq!(matches(&pattern, &name), pattern == name);
        }
    }
}
