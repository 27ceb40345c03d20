//! `check --compare`: the keys that the bindings of several stages have, such as stg and prd.
//!
//! Input: LABEL=FILE for each stage.
//! Output: findings: what one stage lacks and another one has, and names that only one excludes. The
//! exit status is a success only if there is no gap.
//! Invariants: resolves with the controller's own functions; writes nothing; prints names, never a
//! value. Bindings are compared by name, or whatever their names if each file has one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::Value;

use super::{
    context::CheckContext,
    document,
    error::CheckError,
    findings::Findings,
    input::{parse_documents, read_file},
    output::Output,
    servers,
};
use crate::{args::ResolveArgs, printable::count, secret::Desired};

const TOPIC: &str = "keys";

/// The names of one binding's Secret.
#[derive(Debug, Default)]
struct Names {
    keys: BTreeSet<String>,
    /// Excluded names, with the reason.
    excluded: BTreeMap<String, String>,
}

impl Names {
    fn of(desired: &Desired) -> Self {
        let excluded = desired.excluded_keys.iter();
        Self {
            keys: desired.data.keys().cloned().collect(),
            excluded: excluded
                .map(|key| (key.name.clone(), key.reason.clone()))
                .collect(),
        }
    }
}

/// A file of one stage.
struct Stage {
    label: String,
    text: String,
    documents: Vec<Value>,
}

/// Compares the bindings of all files.
///
/// # Errors
/// If an argument is not LABEL=FILE, a file cannot be read or has no binding, or there is no kubeconfig.
pub(super) async fn compare(
    files: &[PathBuf],
    args: ResolveArgs,
    mut output: Output,
) -> Result<ExitCode, CheckError> {
    let mut stages = Vec::new();
    for file in files {
        stages.push(read_stage(file)?);
    }
    let labels: BTreeSet<&str> = stages.iter().map(|stage| stage.label.as_str()).collect();
    if labels.len() < 2 || labels.len() < stages.len() {
        return Err(CheckError::Labels);
    }
    let context = CheckContext::new(args).await?;
    for stage in &stages {
        // Findings about a server appear where a binding cannot use it.
        let _ = servers::add_documents(&context.cluster_servers, &stage.text);
    }
    for group in groups(&stages) {
        let (names, resolved) = resolve_all(&context, &group, &mut output).await?;
        let mut findings = Findings::default();
        findings.title = title(&group);
        if resolved {
            report(&names, &mut findings);
        } else {
            findings.fail(TOPIC, "not compared, because a binding has no values");
        }
        output.add(findings)?;
    }
    Ok(if output.finish()? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn read_stage(argument: &Path) -> Result<Stage, CheckError> {
    let text = argument.to_str().ok_or(CheckError::Labels)?;
    let (label, file) = text.split_once('=').ok_or(CheckError::Labels)?;
    if label.is_empty() || file.is_empty() {
        return Err(CheckError::Labels);
    }
    let text = read_file(Path::new(file))?;
    let documents = parse_documents(&text);
    let documents = documents.into_iter().collect::<Result<Vec<_>, _>>();
    match documents {
        Ok(documents) if !documents.is_empty() => Ok(Stage {
            label: label.to_owned(),
            text,
            documents,
        }),
        Ok(_) => Err(CheckError::NoBinding {
            file: file.to_owned(),
        }),
        Err(why) => Err(CheckError::Document {
            file: file.to_owned(),
            why,
        }),
    }
}

/// One binding of each stage, or none where the stage does not have it.
type Group<'a> = Vec<(&'a str, Option<&'a Value>)>;

/// What is compared: the only binding of each file, or the bindings of the same name.
fn groups(stages: &[Stage]) -> Vec<Group<'_>> {
    if stages.iter().all(|stage| stage.documents.len() == 1) {
        let group = stages
            .iter()
            .map(|stage| (stage.label.as_str(), stage.documents.first()));
        return vec![group.collect()];
    }
    let names: BTreeSet<&str> = stages
        .iter()
        .flat_map(|stage| stage.documents.iter().map(name_of))
        .collect();
    let mut groups = Vec::new();
    for name in names {
        let mut group = Vec::new();
        for stage in stages {
            let mut documents = stage.documents.iter();
            let found = documents.find(|document| name_of(document) == name);
            group.push((stage.label.as_str(), found));
        }
        groups.push(group);
    }
    groups
}

fn name_of(document: &Value) -> &str {
    document["metadata"]["name"].as_str().unwrap_or_default()
}

fn title(group: &Group<'_>) -> String {
    let name = group.iter().find_map(|(_, document)| *document);
    let labels: Vec<&str> = group.iter().map(|(label, _)| *label).collect();
    format!(
        "{}: {}",
        name.map(name_of).unwrap_or_default(),
        labels.join(", ")
    )
}

/// The names of each stage, and whether all of its bindings resolve. Prints what the bindings resolve
/// to.
async fn resolve_all<'a>(
    context: &CheckContext,
    group: &Group<'a>,
    output: &mut Output,
) -> Result<(Vec<(&'a str, Option<Names>)>, bool), CheckError> {
    let mut names = Vec::new();
    let mut resolved = true;
    for (label, document) in group {
        let Some(document) = document else {
            names.push((*label, None));
            continue;
        };
        let mut findings = Findings::default();
        let found = document::resolve(context, document, &mut findings).await;
        findings.title = format!("{label}: {}", findings.title);
        output.add(findings)?;
        resolved &= found.is_some();
        names.push((*label, found.map(|found| Names::of(&found.desired))));
    }
    Ok((names, resolved))
}

/// Adds the gaps between stages, or that there is none.
fn report(stages: &[(&str, Option<Names>)], findings: &mut Findings) {
    for (label, names) in stages {
        let Some(names) = names else {
            findings.fail(TOPIC, &format!("{label} does not have this binding"));
            continue;
        };
        report_stage(label, names, stages, findings);
    }
    if !findings.has_failures() {
        let keys = stages.iter().find_map(|(_, names)| names.as_ref());
        let keys = count(keys.map_or(0, |names| names.keys.len()), "key");
        findings.ok(TOPIC, &format!("each has the same {keys}"));
    }
}

/// Adds what one stage lacks, and what it alone excludes.
fn report_stage(
    label: &str,
    names: &Names,
    stages: &[(&str, Option<Names>)],
    findings: &mut Findings,
) {
    let others = || stages.iter().filter(|(other, _)| *other != label);
    let having = |name: &str, has: fn(&Names, &str) -> bool| -> Vec<&str> {
        others()
            .filter(|(_, names)| names.as_ref().is_some_and(|names| has(names, name)))
            .map(|(other, _)| *other)
            .collect()
    };
    let everywhere: BTreeSet<&String> = others()
        .filter_map(|(_, names)| names.as_ref())
        .flat_map(|names| &names.keys)
        .collect();
    for name in everywhere {
        if names.keys.contains(name) {
            continue;
        }
        let owners = having(name, |names, name| names.keys.contains(name)).join(", ");
        let why = match names.excluded.get(name) {
            Some(reason) => format!("{label} excludes {name}, which {owners} has: {reason}"),
            None => format!("{label} lacks {name}, which {owners} has"),
        };
        findings.fail(TOPIC, &why);
    }
    for name in names.excluded.keys() {
        let lacking = having(name, |names, name| {
            !names.keys.contains(name) && !names.excluded.contains_key(name)
        });
        if !lacking.is_empty() {
            let lacking = lacking.join(", ");
            let why = format!("{label} excludes {name}, which {lacking} does not have at all");
            findings.fail(TOPIC, &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(keys: &[&str], excluded: &[&str]) -> Names {
        let owned = |name: &&str| (*name).to_owned();
        Names {
            keys: keys.iter().map(owned).collect(),
            excluded: excluded
                .iter()
                .map(|name| (owned(name), "reserved".to_owned()))
                .collect(),
        }
    }

    fn reported(stages: &[(&str, Option<Names>)]) -> (bool, String) {
        let mut findings = Findings::default();
        report(stages, &mut findings);
        (findings.has_failures(), findings.to_string())
    }

    #[test]
    fn equal_names_are_no_gap() {
        let (fails, text) = reported(&[
            ("stg", Some(names(&["A", "B"], &["PATH"]))),
            ("prd", Some(names(&["A", "B"], &["PATH"]))),
        ]);
        assert!(!fails, "{text}");
        assert!(text.contains("the same 2 keys"), "{text}");
    }

    #[test]
    fn each_gap_names_the_stage_that_lacks_the_key() {
        let (fails, text) = reported(&[
            ("dev", Some(names(&["A", "NEW", "PATH"], &[]))),
            ("stg", Some(names(&["A", "NEW"], &["PATH"]))),
            ("prd", Some(names(&["A", "OLD"], &["LD_DEBUG"]))),
            ("dr", None),
        ]);
        assert!(fails);
        for line in [
            "prd lacks NEW, which dev, stg has",
            "dev lacks OLD, which prd has",
            "stg lacks OLD, which prd has",
            "stg excludes PATH, which dev has: reserved",
            "prd lacks PATH, which dev has",
            "stg excludes PATH, which prd does not have at all",
            "prd excludes LD_DEBUG, which dev, stg does not have at all",
            "dr does not have this binding",
        ] {
            assert!(text.contains(line), "{line:?} is missing in {text}");
        }
        assert_eq!(text.matches("FAIL").count(), 8, "{text}");
    }

    #[test]
    fn bindings_of_several_files_are_paired_by_name() {
        let stage = |label: &str, names: &[&str]| Stage {
            label: label.to_owned(),
            text: String::new(),
            documents: names
                .iter()
                .map(|name| serde_json::json!({"metadata": {"name": name}}))
                .collect(),
        };
        let pairs = |stages: &[Stage]| -> Vec<Vec<String>> {
            let text =
                |(_, document): &(&str, Option<&Value>)| document.map_or("-", name_of).to_owned();
            let groups = groups(stages);
            groups
                .iter()
                .map(|group| group.iter().map(text).collect())
                .collect()
        };
        let single = [stage("stg", &["a-stg"]), stage("prd", &["a-prd"])];
        assert_eq!(pairs(&single), [["a-stg", "a-prd"]]);
        let several = [stage("stg", &["b", "a"]), stage("prd", &["a"])];
        assert_eq!(pairs(&several), [["a", "a"], ["b", "-"]]);
    }
}
