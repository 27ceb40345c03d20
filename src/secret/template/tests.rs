use proptest::{collection::btree_map, prelude::*};

use super::*;

fn render_with(source: &str, values: &[(&str, &str)]) -> Result<String, TemplateError> {
    let owned: BTreeMap<String, SecretString> = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()))
        .collect();
    let values = owned.iter().map(|(name, value)| (name.clone(), value));
    let rendered = render(&[("a.yml", source)].into(), &values.collect())?;
    let text = rendered["a.yml"].expose_secret().to_vec();
    Ok(String::from_utf8(text).unwrap())
}

#[test]
fn renders_values_filters_and_conditions_without_escaping() {
    let values = [("HOST", "db.<example>&\"x\""), ("PORT", "5432")];
    for (source, expected) in [
        ("host: {{ HOST }}\n", "host: db.<example>&\"x\"\n"),
        ("{{ PORT|int + 1 }}", "5433"),
        ("{% if NONE is defined %}a{% else %}b{% endif %}", "b"),
        ("{{ NONE|default('d') }}", "d"),
        ("{{ PORT|b64encode }}", "NTQzMg=="),
        ("{{ HOST|upper|replace('DB', 'x') }}", "x.<EXAMPLE>&\"X\""),
        ("{{ PORT|tojson }}", "\"5432\""),
        ("no names", "no names"),
    ] {
        assert_eq!(
            render_with(source, &values).as_deref(),
            Ok(expected),
            "{source}"
        );
    }
}

#[test]
fn an_unknown_name_is_named_with_file_and_line() {
    let source = "a: {{ A }}\nb: {{ TYPO }} {{ A }}\nc: {{ OTHER }}\n";
    let error = render_with(source, &[("A", "secret-a")]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("spec.managedSecret.files: a.yml, line 2: TYPO is no name"),
        "{text}"
    );
}

#[test]
fn messages_never_contain_a_value() {
    let secret = "s3cr3t-canary";
    let values = [("A", secret), ("N", "1")];
    for source in [
        "{{ A.x.y }}",
        "{{ A|int }}",
        "{{ A + N|int }}",
        "{{ A|nosuch }}",
        "{{ A is nosuch }}",
        "{{ A() }}",
        "{{ A.f() }}",
        "{{ nosuch(A) }}",
        "{{ A|replace }}",
        "{{ A|tojson(A) }}",
        "{{ {A: 1}[A].x.y }}",
        "{{ A|format(A) }}",
        "{{ A|round }}",
        "{{ A // 0 }}",
        "{{ A|b64encode(A) }}",
        "{% for x in N|int %}{% endfor %}",
        "{{ range(A) }}",
        "{{ debug() }}",
        "{{ X }}",
        "{{ A",
        "{% include A %}",
        "{{ \"\\q\" ~ A }}",
        "{{ A|join(A)|first|attr(A)|list|sum }}",
    ] {
        let Err(error) = render_with(source, &values) else {
            continue;
        };
        let text = format!("{error} {error:?}");
        assert!(!text.contains(secret), "{source}: {text}");
    }
    let error = render_with("{{ A|int }}", &values).unwrap_err();
    assert_eq!(error.line, Some(1));
}

#[test]
fn work_memory_and_output_are_bounded() {
    let large = "x".repeat(100_000);
    for source in [
        "{{ 'x' * 1000000000 }}",
        "{{ A * 100000 }}",
        "{% set x = A %}{% for i in range(99999) %}{% set x = x ~ x %}{{ x }}{% endfor %}",
        "{% for i in range(9999) %}{% for j in range(9999) %}{{ i }}{% endfor %}{% endfor %}",
        "{% for i in range(20) %}{{ A }}{% endfor %}",
        "{{ A|replace('', A) }}",
        "{{ A|replace('x', A)|replace('x', A) }}",
        "{{ [A]|list * 10000000 }}",
        "{{ range(100000)|list|tojson }}",
        "{{ A|indent(10000000) }}",
        "{{ '%1000000000s'|format(A) }}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    ] {
        let error = render_with(source, &[("A", &large)]).unwrap_err();
        assert!(
            matches!(
                error.problem,
                Problem::TooMuch | Problem::Syntax | Problem::Other(_) | Problem::NotAllowed(_)
            ),
            "{source}: {error}"
        );
    }
    // What fits is not refused.
    let source = "{{ A }}".repeat(10);
    assert_eq!(
        render_with(&source, &[("A", &large)]).unwrap().len(),
        1_000_000
    );
}

#[test]
fn no_template_overflows_the_stack() {
    let fill = |part: &str, before: &str, after: &str| {
        let room = MAX_TEMPLATE_BYTES - before.len() - after.len();
        format!("{before}{}{after}", part.repeat(room / part.len()))
    };
    for source in [
        fill("-", "{{ ", "1 }}"),
        fill("not ", "{{ ", "A }}"),
        fill("(", "{{ ", ""),
        fill("[", "{{ ", ""),
        fill("A+", "{{ ", "A }}"),
        fill("2**", "{{ ", "2 }}"),
        fill("A~", "{{ ", "A }}"),
        fill(".a", "{{ A", " }}"),
        fill("[0]", "{{ A", " }}"),
        fill("|e", "{{ A", " }}"),
        fill("a and ", "{{ ", "A }}"),
        fill("1<", "{{ ", "1 }}"),
        fill("1 if 1 else ", "{{ ", "1 }}"),
        fill("{% if A %}", "", ""),
        fill("{%elif A%}", "{%if A%}", "{%endif%}"),
        fill("{%for a in A%}", "", ""),
        fill("{%set a%}", "", ""),
    ] {
        // Whether it is refused does not matter, but the process has to live.
        let _ = render_with(&source, &[("A", "a")]);
        let _ = check_syntax(&[("a", source.as_str())].into());
    }
    let error = render_with(&" ".repeat(MAX_TEMPLATE_BYTES + 1), &[]).unwrap_err();
    assert_eq!(error.problem, Problem::TooLong);
}

#[test]
fn syntax_is_checked_without_values() {
    let check = |source: &str| check_syntax(&[("a", source)].into());
    assert_eq!(check("{{ ANY }}"), Ok(()));
    let error = check("a\n{{ A").unwrap_err();
    assert_eq!((error.line, error.problem), (Some(2), Problem::Syntax));
}

proptest! {
    #[test]
    fn a_value_is_copied_whatever_it_holds(
        values in btree_map("[A-Z]{1,3}", "\\PC{0,20}[\n{}%#\"'\\\\]{0,5}", 1..5),
        text in "[a-z:\n ]{0,20}",
    ) {
        let pairs: Vec<_> = values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (mut source, mut expected) = (String::new(), String::new());
        for (name, value) in &pairs {
            source.extend([text.as_str(), "{{ ", name, " }}x"]);
            expected.extend([text.as_str(), value, "x"]);
        }
        prop_assert_eq!(render_with(&source, &pairs), Ok(expected));
    }

    #[test]
    fn any_text_gives_a_result_or_an_error_without_the_value(
        source in "([{}%|~+*()\\[\\].'\" \n]|A|if|for|in|set|endif|endfor|else|is|defined|[0-9]){0,40}",
    ) {
        if let Err(error) = render_with(&source, &[("A", "s3cr3t")]) {
            let text = format!("{error} {error:?}");
            prop_assert!(!text.contains("s3cr3t"), "{}", text);
        }
    }
}

/// Each of these took the engine minutes in one instruction, or would have taken it for ever.
#[test]
fn no_template_makes_or_prints_a_long_list() {
    let list = "([A]|list * 100000000)";
    let doubled: Vec<String> = (0..60)
        .map(|at| format!("{{% set a{} = (a{at}, a{at}) %}}", at + 1))
        .collect();
    let doubled = doubled.concat();
    for source in [
        format!("{{{{ {list} }}}}"),
        format!("{{{{ {list} ~ 'x' }}}}"),
        format!("{{{{ {list}|string|length }}}}"),
        format!("{{{{ {list}|tojson }}}}"),
        format!("{{{{ {{'a': {list}}} }}}}"),
        format!("{{% set a0 = A %}}{doubled}{{{{ a60 }}}}"),
        "{{ range(99999)|string }}".to_owned(),
        "{{ dict(a=A)|string }}".to_owned(),
    ] {
        let error = render_with(&source, &[("A", "a")]).unwrap_err();
        assert!(
            matches!(
                error.problem,
                Problem::NotAllowed(_) | Problem::Other(_) | Problem::UnknownName(_)
            ),
            "{source}: {error}"
        );
    }
    let error = render_with("a\n{% for x in A %}{% endfor %}", &[("A", "a")]).unwrap_err();
    assert_eq!(error.line, Some(2));
    assert_eq!(error.problem, Problem::NotAllowed("for".to_owned()));
}
