//! The command line as shells, `man` and programs see it.
//!
//! Input: the binary.
//! Output: completion scripts that a real shell uses, man pages, and findings as JSON.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use clap::CommandFactory as _;
use doppler_prefect_operator::args::Cli;
use serde_json::{Value, json};
use testkit::folder::ScratchDir;

const BINARY: &str = env!("CARGO_BIN_EXE_doppler-prefect-operator");

fn run(args: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(BINARY)
        .args(args)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    (
        output.status.success(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

/// The words that bash offers after `NAME WORDS…`.
fn completed(name: &str, args: &[&str], words: &[&str]) -> BTreeSet<String> {
    let (ok, script) = run(args, "");
    assert!(ok);
    let typed = [&[name], words].concat();
    let ask = format!(
        "{script}\nfunction=$(complete -p {name} | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
         COMP_WORDS=({}); COMP_CWORD={}; $function {name} {:?} {:?}; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        typed.join(" "),
        words.len(),
        words.last().unwrap(),
        typed[typed.len() - 2],
    );
    let output = Command::new("bash").args(["-c", &ask]).output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    let words = String::from_utf8(output.stdout).unwrap();
    words.lines().map(ToOwned::to_owned).collect()
}

#[test]
fn bash_completes_subcommands_and_flags() {
    let name = "doppler-prefect-operator";
    let script = ["completion", "bash"];
    assert_eq!(
        completed(name, &script, &["che"]),
        ["check".to_owned()].into()
    );
    let flags = completed(name, &script, &["check", "--o"]);
    assert!(
        flags.contains("--offline") && flags.contains("--output"),
        "{flags:?}"
    );
    let plugin = ["completion", "--plugin", "bash"];
    let offered = completed("kubectl-dpb", &plugin, &["ref"]);
    assert_eq!(offered, ["refresh".to_owned()].into());
}

#[test]
fn every_shell_has_a_script() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (ok, script) = run(&["completion", shell], "");
        assert!(ok && script.contains("detach"), "{shell}: {script}");
    }
}

#[test]
fn every_subcommand_has_a_man_page() {
    let folder = ScratchDir::new("man").unwrap();
    let path = folder.path().to_str().unwrap();
    assert!(run(&["man", path], "").0);
    let mut command = Cli::command();
    command.build();
    let subcommands = command.get_subcommands();
    for subcommand in subcommands.filter(|one| one.get_name() != "help") {
        let page = format!("doppler-prefect-operator-{}.1", subcommand.get_name());
        let text = std::fs::read_to_string(folder.path().join(&page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
        // roff writes a hyphen as `\-`.
        let text = text.replace('\\', "");
        for flag in subcommand.get_arguments().filter_map(|arg| arg.get_long()) {
            assert!(text.contains(&format!("--{flag}")), "{page}: {flag}");
        }
    }
}

#[test]
fn findings_are_json_on_request() {
    let binding = |spec: Value| {
        let binding = json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
            "metadata": {"name": "checked", "namespace": "flows"}, "spec": spec,
        });
        format!("{binding}\n")
    };
    let check = |input: &str| {
        let (ok, text) = run(&["check", "-", "--offline", "--output", "json"], input);
        (ok, serde_json::from_str::<Value>(&text).unwrap())
    };
    let server = json!({"name": "prefect-server"});
    let (ok, good) = check(&binding(json!({"prefect": {"server": server}})));
    assert!(ok, "{good}");
    assert_eq!(good["ok"], true);
    let title = good["bindings"][0]["title"].as_str().unwrap();
    assert!(title.contains("flows/checked"), "{good}");
    let findings = good["bindings"][0]["findings"].as_array().unwrap();
    assert!(!findings.is_empty());
    for finding in findings {
        assert!(["ok", "note"].contains(&finding["severity"].as_str().unwrap()));
        assert!(finding["topic"].is_string() && finding["text"].is_string());
    }

    let wrong = binding(json!({"prefect": {"server": server, "blocks": {}}}));
    let both = format!(
        "{}---\n{wrong}",
        binding(json!({"prefect": {"server": server}}))
    );
    let (ok, bad) = check(&both);
    assert!(!ok);
    assert_eq!(bad["ok"], false);
    let failed: Vec<bool> = bad["bindings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let findings = one["findings"].as_array().unwrap();
            findings.iter().any(|finding| finding["severity"] == "fail")
        })
        .collect();
    assert_eq!(failed, [false, true], "{bad}");

    let (ok, empty) = check("");
    assert!(!ok && empty["ok"] == false, "{empty}");
}
