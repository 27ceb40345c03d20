//! docs/command-line.md: every subcommand with its arguments.
//!
//! Input: the command line of the operator.
//! Output: one section for each subcommand, with usage, arguments, variables and defaults.
//! Invariants: hidden arguments are left out, as in `--help`.

use clap::{Arg, Command, CommandFactory as _};
use doppler_prefect_operator::args::Cli;

use super::{HEAD, prose};

/// The page.
pub fn page() -> String {
    let mut command = Cli::command();
    command.build();
    let about = about(&command);
    let mut page = format!(
        "# Command line\n\n{HEAD}\n{about}\n\n`--help` of each subcommand shows the same, and `man` writes man pages.\n"
    );
    for sub in command.get_subcommands() {
        if sub.is_hide_set() || sub.get_name() == "help" {
            continue;
        }
        page.push_str(&section(sub));
    }
    page
}

fn section(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let mut page = format!(
        "\n## {}\n\n```text\n{usage}\n```\n\n{}\n",
        command.get_name(),
        about(command)
    );
    let shown = |argument: &&Arg| !argument.is_hide_set() && argument.get_id() != "help";
    let arguments: Vec<_> = command.get_arguments().filter(shown).map(row).collect();
    if !arguments.is_empty() {
        page.push_str("\n| argument | variable | default | meaning |\n| --- | --- | --- | --- |\n");
        page.push_str(&arguments.concat());
    }
    page
}

fn row(argument: &Arg) -> String {
    let long = argument.get_long().map(|long| format!("--{long}"));
    let values: Vec<_> = argument
        .get_value_names()
        .unwrap_or_default()
        .iter()
        .collect();
    let value = values.first().map_or_else(String::new, ToString::to_string);
    let takes_value = argument.get_action().takes_values();
    let name = match long {
        Some(long) if takes_value => format!("{long} {value}"),
        Some(long) => long,
        None => value,
    };
    let variable = argument.get_env().and_then(|name| name.to_str());
    let defaults = argument.get_default_values().iter();
    let defaults: Vec<_> = defaults.filter_map(|value| value.to_str()).collect();
    let default = if takes_value {
        defaults.join(",")
    } else {
        String::new()
    };
    let help = argument.get_long_help().or_else(|| argument.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let choices: Vec<_> = argument
        .get_possible_values()
        .iter()
        .filter(|_| takes_value)
        .map(|value| code(value.get_name()))
        .collect();
    let choices = match choices.as_slice() {
        [] => String::new(),
        choices => format!("; one of {}", choices.join(", ")),
    };
    format!(
        "| {} | {} | {} | {}{choices} |\n",
        code(&name),
        code(variable.unwrap_or_default()),
        code(&default),
        cell(&help)
    )
}

fn about(command: &Command) -> String {
    let text = command.get_long_about().or_else(|| command.get_about());
    prose(&text.map(ToString::to_string).unwrap_or_default())
}

/// A text in one cell of a table.
fn cell(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    prose(&words.join(" ")).replace('|', "\\|")
}

fn code(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!("`{}`", text.replace('|', "\\|"))
}
