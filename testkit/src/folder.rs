//! Temporary folders that are gone afterwards, also when this process is killed.
//!
//! In: a name. Out: an empty folder, removed when its value is dropped; when the process dies without dropping it, its
//! guardian removes it a little later, once the servers in it have ended. With
//! `DOPPLER_PREFECT_TESTKIT_KEEP` set, folders stay, so that their logs can be read.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Servers that end with this process may write for some seconds more: remove it again and again.
const GUARDIAN_SCRIPT: &str = r#"
trap '' HUP INT TERM
while read -r _; do :; done
for _ in 1 2 3 4 5 6 7 8; do rm -rf -- "$1"; sleep 1; done
"#;

/// A temporary folder.
#[derive(Debug)]
pub struct ScratchDir {
    path: PathBuf,
    /// It holds the writing end of the guardian's pipe.
    guardian: Option<Child>,
}

impl ScratchDir {
    /// A new empty folder whose name starts with `name`.
    ///
    /// # Errors
    /// When the folder or its guardian cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let prefix = format!("doppler-prefect-{name}-");
        let path = tempfile::Builder::new().prefix(&prefix).tempdir()?.keep();
        let guardian = if std::env::var_os("DOPPLER_PREFECT_TESTKIT_KEEP").is_some() {
            crate::progress::line(&format!("keeps {}", path.display()));
            None
        } else {
            let mut command = Command::new("/bin/sh");
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            command
                .args(["-c", GUARDIAN_SCRIPT, "guardian"])
                .arg(&path)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            Some(
                command
                    .spawn()
                    .context("cannot start a guardian for a temporary folder")?,
            )
        };
        Ok(Self { path, guardian })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if let Some(guardian) = &mut self.guardian {
            // Removed here and now; the guardian is not needed for it.
            let _ = guardian.kill();
            let _ = guardian.wait();
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn is_removed_when_the_value_is_dropped() {
        let folder = ScratchDir::new("test").unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("a"), "a").unwrap();
        drop(folder);
        assert!(!path.exists());
    }

    const OWNER: &str = "DOPPLER_PREFECT_TESTKIT_FOLDER_OWNER";

    #[test]
    fn is_removed_when_its_owner_is_killed() {
        if let Some(told) = std::env::var_os(OWNER) {
            let folder = ScratchDir::new("test").unwrap();
            let part = Path::new(&told).with_extension("part");
            std::fs::write(&part, folder.path().to_str().unwrap()).unwrap();
            std::fs::rename(&part, &told).unwrap();
            std::thread::sleep(Duration::from_mins(10));
            return;
        }
        let told = tempfile::tempdir().unwrap();
        let told = told.path().join("path");
        let mut owner = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "folder::tests::is_removed_when_its_owner_is_killed",
            ])
            .env(OWNER, &told)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let wait = |what: &str, condition: &dyn Fn() -> bool| {
            while !condition() {
                assert!(Instant::now() < deadline, "waited in vain for {what}");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        wait("the owner's folder", &|| told.exists());
        let path = PathBuf::from(std::fs::read_to_string(&told).unwrap());
        assert!(path.exists());
        owner.kill().unwrap();
        owner.wait().unwrap();
        wait("its end", &|| !path.exists());
    }
}
