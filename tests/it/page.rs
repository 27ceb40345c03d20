//! Pages of the documentation: their code, and commands of theirs that run as they are written.
//!
//! Input: the Markdown of a page, and a world.
//! Output: blocks of code; commands that ran with the world's names and servers.
//! Invariants: the commands run in a folder of their own with its `examples/`, as in the repository.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use crate::world::World;

/// How a block with values of the chart begins.
pub const CHART_VALUES: &str = "# values.yaml\n";

/// README.md and the pages in docs/, with their text.
pub fn pages() -> Result<Vec<(PathBuf, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![root.join("README.md")];
    for entry in std::fs::read_dir(root.join("docs"))? {
        found.push(entry?.path());
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    let read = |path: PathBuf| Ok((path.clone(), std::fs::read_to_string(path)?));
    found.into_iter().map(read).collect()
}

/// The part of a page below the heading that begins with `title`.
pub fn section<'a>(page: &'a str, title: &str) -> Result<&'a str> {
    let mut sections = page.split("\n## ").skip(1);
    sections
        .find(|text| text.starts_with(title))
        .with_context(|| format!("no section {title}"))
}

/// The blocks of code in one language, without the indentation of their fence.
pub fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let Some(name) = code.strip_prefix("```") else {
            continue;
        };
        let block: Vec<_> = lines
            .by_ref()
            .take_while(|line| line.trim_start() != "```")
            .map(|line| line.get(indent..).unwrap_or_default())
            .collect();
        if name == language {
            found.push(block.join("\n"));
        }
    }
    found
}

impl World {
    /// An example with the namespace, the servers and the names of this world.
    fn example(&self, text: &str, pool: &str) -> String {
        let server = format!(
            "server: {{remoteApiUrl: \"{}\"}}\n    block: {{name: {}}}\n  doppler: {{host: \"{}\"}}",
            self.prefect.api_url(),
            self.name,
            self.doppler.url()
        );
        let mut lines = Vec::new();
        for line in text.lines() {
            let indent: String = line.chars().take_while(|letter| *letter == ' ').collect();
            lines.push(if line.trim_start().starts_with("server:") {
                format!("{indent}{server}")
            } else {
                line.to_owned()
            });
        }
        let text = lines.join("\n");
        text.replace("namespace: flows", &format!("namespace: {}", self.name))
            .replace("name: k8s", &format!("name: {pool}"))
    }

    /// A folder with the examples that pages name, for a pool.
    pub fn examples(&self, pool: &str) -> Result<PathBuf> {
        let folder = self.plane.folder().join(&self.name);
        std::fs::create_dir_all(folder.join("examples"))?;
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        for name in ["adopt.yaml", "smallest.yaml"] {
            let text = std::fs::read_to_string(examples.join(name))?;
            std::fs::write(
                folder.join("examples").join(name),
                self.example(&text, pool),
            )?;
        }
        Ok(folder)
    }

    /// Runs a command of kubectl that has the namespace `flows`. Returns what it prints.
    pub async fn run_kubectl(&self, folder: &Path, command: &str) -> Result<String> {
        let kubectl = tokio::task::spawn_blocking(testkit::kubectl::program).await??;
        let own = command
            .strip_prefix("kubectl ")
            .with_context(|| format!("not a command of kubectl: {command}"))?
            .replace("-n flows ", &format!("-n {} ", self.name));
        let output = Command::new("sh")
            .args(["-c", &format!("{} {own}", kubectl.display())])
            .current_dir(folder)
            .env("KUBECONFIG", self.plane.admin_kubeconfig_path())
            .output()
            .await?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command}: {error}");
        Ok(String::from_utf8(output.stdout)?)
    }
}

#[test]
fn finds_the_code_of_a_section() -> Result<()> {
    let page =
        "# Page\n\n## First\n\n   ```sh\n   a\n     b\n   ```\n\n```yaml\nc: 1\n```\n\n## Second\n";
    let first = section(page, "First")?;
    assert_eq!(blocks(first, "sh"), ["a\n  b"]);
    assert_eq!(blocks(first, "yaml"), ["c: 1"]);
    assert!(blocks(section(page, "Second")?, "sh").is_empty());
    assert!(section(page, "Third").is_err());
    Ok(())
}
