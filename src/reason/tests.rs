use super::*;

#[test]
fn every_reason_is_a_valid_condition_reason_with_manual_text() {
    for reason in Reason::ALL {
        let word = reason.as_str();
        assert!(
            word.len() <= 64 && word.starts_with(|c: char| c.is_ascii_uppercase()),
            "{word}"
        );
        assert!(word.chars().all(|c| c.is_ascii_alphanumeric()), "{word}");
        assert!(
            reason.cause().ends_with('.'),
            "{word} has no sentence for its cause"
        );
        assert!(
            !reason.effect().is_empty() && !reason.fix().is_empty(),
            "{word}"
        );
    }
}

/// Collects the code below `folder`, without tests and without this file.
fn collect_code(folder: &std::path::Path, code: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            collect_code(&path, code);
        } else if path.extension().is_some_and(|end| end == "rs")
            && !name.ends_with("tests.rs")
            && name != "reason.rs"
        {
            let text = std::fs::read_to_string(&path).unwrap();
            code.push_str(text.split("#[cfg(test)]").next().unwrap());
        }
    }
}

/// The list is closed both ways: the code uses no other reason, and uses every reason of the
/// manual.
#[test]
fn every_reason_is_used_in_the_code() {
    let mut code = String::new();
    collect_code(
        &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut code,
    );
    let used: std::collections::BTreeSet<&str> = code
        .split("Reason::")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric()).next())
        .collect();
    for reason in Reason::ALL {
        assert!(used.contains(reason.as_str()), "{reason} is never used");
    }
}

#[test]
fn manual_has_a_section_for_every_reason() {
    let page = manual();
    for reason in Reason::ALL {
        assert_eq!(
            page.matches(&format!("\n## {reason}\n")).count(),
            1,
            "{reason}"
        );
    }
}
