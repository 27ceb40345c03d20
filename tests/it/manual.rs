//! The table of flags in docs/operations.md, compared with the arguments of `run`, and the commands
//! of the pages that need no server.

use std::collections::BTreeMap;

use clap::CommandFactory as _;
use doppler_prefect_operator::args::Cli;

const MANUAL: &str = include_str!("../../docs/operations.md");

/// The rows of the table below a heading, without the head of the table.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let section = MANUAL
        .split("\n## ")
        .find_map(|section| section.strip_prefix(heading)?.strip_prefix('\n'))
        .unwrap_or_else(|| panic!("docs/operations.md has no section {heading}"));
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    let cells = rows.map(|row| row.split('|').map(str::trim).collect());
    cells.skip(2).collect()
}

/// The texts in backticks in a cell.
fn code(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn manual_lists_every_flag_with_variable_and_default() {
    let mut documented = BTreeMap::new();
    for row in table("Flags") {
        for (flag, variable) in code(row[0]).zip(code(row[1])) {
            let default = code(row[2]).next().unwrap_or(row[2]);
            documented.insert(flag.to_owned(), (variable.to_owned(), default.to_owned()));
        }
    }
    let mut command = Cli::command();
    command.build();
    let run = command.find_subcommand("run").unwrap();
    let mut flags = BTreeMap::new();
    for argument in run.get_arguments() {
        let flag = format!("--{}", argument.get_long().unwrap());
        if flag == "--help" {
            continue;
        }
        let variable = argument
            .get_env()
            .unwrap_or_else(|| panic!("{flag} has no environment variable"))
            .to_str()
            .unwrap()
            .to_owned();
        let default: Vec<_> = argument
            .get_default_values()
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        // Without a default, the manual describes the behaviour in words.
        let described = documented.get(&flag).map(|(_, default)| default.clone());
        let default = match default.as_slice() {
            [] | ["false"] => described.unwrap_or_default(),
            values => values.join(","),
        };
        flags.insert(flag, (variable, default));
    }
    assert_eq!(documented, flags);
}

/// Runs each `check --print-patch` and `check --offline` of the pages as it is written there.
#[test]
fn commands_of_the_pages_do_what_they_say() {
    let pages = [
        include_str!("../../docs/injection.md"),
        include_str!("../../docs/terraform-and-ci.md"),
        include_str!("../../docs/worker-chart.md"),
    ];
    let commands = pages
        .iter()
        .flat_map(|page| page.lines())
        .filter_map(|line| {
            let command = line.strip_prefix("doppler-prefect-operator ")?;
            ["check --print-patch=", "check --offline examples/"]
                .iter()
                .any(|start| command.starts_with(start))
                .then_some(command)
        });
    let mut count = 0;
    for command in commands {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_doppler-prefect-operator"))
            .args(command.split(' '))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{command}: {printed}");
        let expected = if command.contains("--offline") {
            "ok"
        } else {
            "secretRef"
        };
        assert!(printed.contains(expected), "{command}: {printed}");
        count += 1;
    }
    assert_eq!(count, 6);
}
