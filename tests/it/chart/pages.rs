//! The values that the pages set, in files and in commands of Helm.
//!
//! Input: README.md and docs/*.md.
//! Output: whether the chart renders with them.

use testkit::folder::ScratchDir;
use testkit::helm::Helm;

use super::{CHART, IMAGE, template};
use crate::page::{CHART_VALUES, blocks, pages};

#[test]
fn values_of_the_pages_render() {
    let mut count = 0;
    for (page, text) in pages().unwrap() {
        let found = blocks(&text, "yaml");
        for values in found.iter().filter(|block| block.starts_with(CHART_VALUES)) {
            let folder = ScratchDir::new("chart-values").unwrap();
            let file = folder.path().join("values.yaml");
            std::fs::write(&file, values).unwrap();
            let command = ["template", "op", CHART, "--set", IMAGE, "--values"];
            let command = [&command[..], &[file.to_str().unwrap()]].concat();
            let rendered = Helm::V3.run(&command, None).unwrap().success();
            rendered.unwrap_or_else(|error| panic!("{}: {error:#}", page.display()));
            count += 1;
        }
    }
    assert_eq!(count, 1);
}

/// The values of `--set` in a command, without the quotes of the shell.
fn sets(command: &str) -> Vec<String> {
    let mut words = command.split_whitespace();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        if word == "--set" {
            found.push(words.next().unwrap().replace(['\'', '"'], ""));
        }
    }
    found
}

#[test]
fn chart_renders_with_the_values_of_every_helm_command() {
    let mut count = 0;
    for (page, text) in pages().unwrap() {
        let commands: Vec<_> = blocks(&text, "sh")
            .iter()
            .flat_map(|block| {
                let joined = block.replace("\\\n", " ");
                joined.lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .filter(|line| line.starts_with("helm upgrade") || line.starts_with("helm install"))
            .collect();
        for command in commands {
            let sets = sets(&command);
            assert!(!sets.is_empty(), "{}: {command}", page.display());
            let sets: Vec<_> = sets.iter().map(String::as_str).collect();
            let rendered = template("op", "doppler", &sets).success();
            rendered.unwrap_or_else(|error| panic!("{}: {command}: {error:#}", page.display()));
            count += 1;
        }
    }
    assert!(count >= 8, "only {count} commands");
}

#[test]
fn reads_the_values_of_a_command() {
    let command = "helm upgrade a b --set 'c={d,e}' --reuse-values --set f=g";
    assert_eq!(sets(command), ["c={d,e}", "f=g"]);
}
