//! Expands `$(NAME)` references.
//!
//! Input: a text, and a function that looks up names.
//! Output: the text as the kubelet expands it.
//! Invariants: never fails; an unknown reference stays as written.

/// Expands `$(NAME)` as the kubelet does: `$$` becomes `$`, and an unknown or unclosed reference
/// stays.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(literal) = after.strip_prefix('$') {
            out.push('$');
            rest = literal;
        } else if let Some((name, tail)) = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            if let Some(value) = lookup(name) {
                out.push_str(&value);
            } else {
                out.push_str("$(");
                out.push_str(name);
                out.push(')');
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::expand;

    fn with_a(text: &str) -> String {
        expand(text, |name| (name == "A").then(|| "1".to_owned()))
    }

    #[test]
    fn references_are_replaced_and_unknown_ones_stay() {
        assert_eq!(with_a("x$(A)y$(B)z"), "x1y$(B)z");
    }

    #[test]
    fn two_dollars_are_one_and_protect_a_reference() {
        assert_eq!(with_a("$$(A) $$$(A) $$$$"), "$(A) $1 $$");
    }

    #[test]
    fn lone_dollars_and_unclosed_references_stay() {
        assert_eq!(with_a("pa$$word $A $(A ü$"), "pa$word $A $(A ü$");
    }

    #[test]
    fn expanded_values_are_not_expanded_again() {
        assert_eq!(expand("$(A)", |_| Some("$(A)$$".to_owned())), "$(A)$$");
    }
}
