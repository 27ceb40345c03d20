//! The Dockerfile, checked without a container engine: the last stage is minimal, and the build
//! context contains everything that the build needs. `running` builds and runs the last stage.
//!
//! Input: Dockerfile and .dockerignore.
//! Output: their errors.
//! Invariants: no test pulls an image from a registry.

mod running;

use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const BINARY: &str = "doppler-prefect-operator";

struct Instruction {
    word: String,
    rest: String,
}

/// The stages, each with its `FROM`.
fn stages() -> Vec<Vec<Instruction>> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("Dockerfile")).unwrap();
    let text = text.replace("\\\n", " ");
    let mut stages: Vec<Vec<Instruction>> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(char::is_whitespace).unwrap();
        let word = word.to_ascii_uppercase();
        if word == "FROM" {
            stages.push(Vec::new());
        }
        let rest = rest.trim().to_owned();
        stages
            .last_mut()
            .expect("the first instruction is FROM")
            .push(Instruction { word, rest });
    }
    stages
}

fn all<'a>(stage: &'a [Instruction], word: &str) -> Vec<&'a str> {
    stage
        .iter()
        .filter(|one| one.word == word)
        .map(|one| one.rest.as_str())
        .collect()
}

#[test]
fn image_holds_only_binary_and_ca_bundle() {
    let stages = stages();
    let last = stages.last().unwrap();
    assert_eq!(all(last, "FROM"), ["scratch"]);
    assert!(all(last, "RUN").is_empty(), "the stage has no shell");
    let copied = all(last, "COPY");
    let targets: Vec<_> = copied
        .iter()
        .map(|copy| copy.rsplit(' ').next().unwrap())
        .collect();
    let roots = "/etc/ssl/certs/ca-certificates.crt";
    assert_eq!(targets, [roots, &format!("/{BINARY}")]);
    assert!(copied.iter().all(|copy| copy.starts_with("--from=")));
    assert_eq!(all(last, "ENV"), [format!("SSL_CERT_FILE={roots}")]);
    assert_eq!(all(last, "ENTRYPOINT"), [format!("[\"/{BINARY}\"]")]);
    assert_eq!(all(last, "CMD"), ["[\"run\"]"]);
}

/// The kubelet cannot verify `runAsNonRoot` for a user name.
#[test]
fn user_is_numeric_and_matches_the_chart() {
    let stages = stages();
    let users = all(stages.last().unwrap(), "USER");
    let [user] = users[..] else {
        panic!("{users:?}")
    };
    let (uid, gid) = user.split_once(':').unwrap();
    let (uid, gid): (u32, u32) = (uid.parse().unwrap(), gid.parse().unwrap());
    assert!(uid > 0 && gid > 0);
    let pod: serde_json::Value = crate::chart::pod_security_context();
    assert_eq!(pod["runAsUser"], uid);
    assert_eq!(pod["runAsGroup"], gid);
}

#[test]
fn build_is_static_locked_and_pinned() {
    let stages = stages();
    let [build, _] = &stages[..] else {
        panic!("{} stages", stages.len())
    };
    let from = all(build, "FROM");
    let image = from[0].split(' ').next().unwrap();
    let (_, tag) = image.rsplit_once(':').expect("a tag");
    assert!(tag.contains('.') && tag.contains("alpine"), "{tag}");
    // It must be at least the rust-version of Cargo.toml.
    let version: Vec<u32> = tag
        .split('-')
        .next()
        .unwrap()
        .split('.')
        .map(|part| part.parse().unwrap())
        .collect();
    let least: Vec<u32> = env!("CARGO_PKG_RUST_VERSION")
        .split('.')
        .map(|part| part.parse().unwrap())
        .collect();
    assert!(version >= least, "rust {version:?} cannot build {least:?}");
    let cargo: Vec<_> = all(build, "RUN")
        .into_iter()
        .filter(|run| run.contains("cargo build"))
        .collect();
    let [cargo] = cargo[..] else {
        panic!("{cargo:?}")
    };
    for word in ["--locked", "--release", "--target \"$target\"", BINARY] {
        assert!(cargo.contains(word), "{cargo}");
    }
    // BuildKit names the platform by TARGETARCH; without it, the machine is asked.
    assert_eq!(all(build, "ARG"), ["TARGETARCH"]);
    for case in [
        "amd64 | x86_64) target=x86_64-unknown-linux-musl ;;",
        "arm64 | aarch64) target=aarch64-unknown-linux-musl ;;",
        "case \"${TARGETARCH:-$(uname -m)}\" in",
    ] {
        assert!(cargo.contains(case), "{cargo}");
    }
}

/// Cargo rejects a workspace if a path in its manifests is missing.
#[test]
fn build_context_holds_only_what_is_needed() {
    let text = std::fs::read_to_string(Path::new(ROOT).join(".dockerignore")).unwrap();
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some("*"),
        "the first line excludes everything"
    );
    let included_paths: Vec<&str> = lines.map(|line| line.strip_prefix('!').unwrap()).collect();
    for path in [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "bench/Cargo.toml",
        "bench/src",
        "testkit/Cargo.toml",
        "testkit/src",
    ] {
        assert!(
            included_paths.contains(&path),
            "{path} is not in the build context"
        );
    }
    for path in &included_paths {
        assert!(Path::new(ROOT).join(path).exists(), "{path} does not exist");
    }
    // The code includes these files at compile time.
    for file in files_under(&Path::new(ROOT).join("src")) {
        let code = std::fs::read_to_string(&file).unwrap();
        let included = code.split("include_str!(\"").skip(1);
        for path in included.filter_map(|rest| rest.split('"').next()) {
            let path = file.parent().unwrap().join(path).canonicalize().unwrap();
            let path = path.strip_prefix(ROOT).unwrap().to_owned();
            let in_tests = file.ends_with("tests.rs")
                || code
                    .find("#[cfg(test)]")
                    .is_some_and(|tests| tests < code.find("include_str!").unwrap());
            assert!(
                in_tests || included_paths.iter().any(|one| path.starts_with(one)),
                "{} is not in the build context",
                path.display()
            );
        }
    }
}

fn files_under(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_under(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    files
}
