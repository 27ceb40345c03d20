//! The folder with the hook secrets.
//!
//! In: a folder, as the kubelet mounts a Secret: one file for each key. Out: the secrets that are valid now. The folder is read again when a hook
//! comes and the last reading is older than [`CACHE_TTL`], so that a rotation needs no restart and a replica without hooks reads nothing. Refused files
//! are named in the log once, without what they hold.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};
use tracing::{error, info, warn};

use crate::doppler::webhook::{
    MAX_SECRET_BYTES, MAX_SECRETS, WebhookSecret, WebhookSecretError, WebhookSecrets,
};

/// For how long a reading counts.
pub const CACHE_TTL: Duration = Duration::from_secs(2);
/// Entries of the folder that are looked at.
const MAX_ENTRIES: usize = 1024;

/// Why the folder gives no secrets.
#[derive(Debug, thiserror::Error)]
pub enum SecretDirError {
    /// It cannot be read.
    #[error("the folder of --webhook-secrets, {path:?}, cannot be read: {source}")]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A file that is no hook secret.
#[derive(Debug, PartialEq, Eq)]
struct RejectedFile {
    name: String,
    reason: RejectReason,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum RejectReason {
    #[error(transparent)]
    Secret(#[from] WebhookSecretError),
    #[error("it cannot be read: {0}")]
    Unreadable(io::ErrorKind),
}

/// What the folder held.
#[derive(Debug, Default, PartialEq)]
struct DirContents {
    secrets: Arc<WebhookSecrets>,
    rejected: Vec<RejectedFile>,
    /// Why the folder as a whole could not be read.
    error: Option<io::ErrorKind>,
}

/// The folder, and what it held last.
#[derive(Debug)]
pub struct SecretDir {
    path: PathBuf,
    last: Mutex<(Instant, DirContents)>,
}

impl SecretDir {
    /// Opens the folder.
    ///
    /// # Errors
    /// If it cannot be read: a path that is mistyped is told at the start, and not when the first hook is refused.
    pub fn open(path: PathBuf) -> Result<Self, SecretDirError> {
        let reading = match read_contents(&path) {
            Ok(reading) => reading,
            Err(source) => return Err(SecretDirError::Unreadable { path, source }),
        };
        log_contents(&reading);
        Ok(Self {
            path,
            last: Mutex::new((Instant::now(), reading)),
        })
    }

    /// The secrets that are valid now.
    pub async fn current(&self) -> Arc<WebhookSecrets> {
        let mut last = self.last.lock().await;
        if last.0.elapsed() >= CACHE_TTL {
            let path = self.path.clone();
            // The task only fails if it panics: then nothing is valid.
            let reading = tokio::task::spawn_blocking(move || reread(&path))
                .await
                .unwrap_or_default();
            if reading != last.1 {
                log_contents(&reading);
            }
            *last = (Instant::now(), reading);
        }
        Arc::clone(&last.1.secrets)
    }
}

fn log_contents(reading: &DirContents) {
    if let Some(fault) = reading.error {
        error!(%fault, "the folder of hook secrets cannot be read: no hook is taken until it can");
        return;
    }
    for RejectedFile { name, reason: why } in &reading.rejected {
        warn!(file = name, %why, "a file is not taken as a hook secret");
    }
    info!(secrets = reading.secrets.len(), "hook secrets read");
}

/// A folder that cannot be read any more gives none: a secret that was taken away must not stay valid.
fn reread(path: &Path) -> DirContents {
    let read = match read_contents(path) {
        Ok(reading) if !reading.is_torn() => return reading,
        // The kubelet was exchanging the files just now.
        _ => read_contents(path),
    };
    read.unwrap_or_else(|error| DirContents {
        error: Some(error.kind()),
        ..DirContents::default()
    })
}

impl DirContents {
    fn is_torn(&self) -> bool {
        self.rejected
            .iter()
            .any(|refused| matches!(refused.reason, RejectReason::Unreadable(_)))
    }
}

fn read_contents(path: &Path) -> io::Result<DirContents> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)?.take(MAX_ENTRIES) {
        let name = entry?.file_name();
        // The kubelet's own: `..data`, and the folders that it points to.
        if !name.as_encoded_bytes().starts_with(b"..") {
            names.push(name);
        }
    }
    names.sort();
    let (mut secrets, mut refused) = (Vec::new(), Vec::new());
    for name in names {
        let file = path.join(&name);
        if file.is_dir() {
            continue;
        }
        let taken = if secrets.len() < MAX_SECRETS {
            read_file(&file)
                .map_err(|error| RejectReason::Unreadable(error.kind()))
                .and_then(|content| {
                    // A name that is not UTF-8 is no project's.
                    let name = name.to_str().unwrap_or_default();
                    Ok(WebhookSecret::new(name, &content)?)
                })
        } else {
            Err(WebhookSecretError::TooMany.into())
        };
        match taken {
            Ok(secret) => secrets.push(secret),
            Err(why) => refused.push(RejectedFile {
                name: name.to_string_lossy().into_owned(),
                reason: why,
            }),
        }
    }
    Ok(DirContents {
        secrets: Arc::new(secrets.into_iter().collect()),
        rejected: refused,
        error: None,
    })
}

/// What a file holds, and no more of it than shows that it is too long.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // A newline, of one or two bytes, and one byte too many.
    let most = MAX_SECRET_BYTES as u64 + 3;
    let mut content = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const SECRET: &str = "canary-canary-canary";

    /// A folder of this test's own.
    struct Fixture(PathBuf);

    impl Fixture {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("hooks-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, content: &str) {
            fs::write(self.0.join(name), content).unwrap();
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn refused(name: &str, why: WebhookSecretError) -> RejectedFile {
        RejectedFile {
            name: name.to_owned(),
            reason: why.into(),
        }
    }

    #[test]
    fn reads_a_folder_as_the_kubelet_mounts_it() {
        let folder = Fixture::new("kubelet");
        let data = folder.0.join("..2026_01_01");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("backend"), format!("{SECRET}\n")).unwrap();
        fs::write(data.join("empty"), "\n").unwrap();
        symlink("..2026_01_01", folder.0.join("..data")).unwrap();
        symlink("..data/backend", folder.0.join("backend")).unwrap();
        symlink("..data/empty", folder.0.join("empty")).unwrap();
        let reading = read_contents(&folder.0).unwrap();
        assert_eq!(reading.secrets.len(), 1);
        assert_eq!(
            reading.rejected,
            [refused("empty", WebhookSecretError::TooShort)]
        );
        assert!(!format!("{reading:?}").contains("canary"));
    }

    #[test]
    fn number_and_size_of_files_are_bounded() {
        let folder = Fixture::new("bounds");
        for number in 0..=MAX_SECRETS {
            folder.write(&format!("p{number:03}"), SECRET);
        }
        folder.write("a-huge-one", &"x".repeat(1 << 20));
        let reading = read_contents(&folder.0).unwrap();
        assert_eq!(reading.secrets.len(), MAX_SECRETS);
        let expected = [
            refused("a-huge-one", WebhookSecretError::TooLong),
            refused("p064", WebhookSecretError::TooMany),
        ];
        assert_eq!(reading.rejected, expected);
    }

    #[test]
    fn a_folder_that_is_not_there_is_told_at_the_start() {
        let error = SecretDir::open("/no/such/folder".into()).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rotation_is_seen_and_a_folder_that_goes_takes_its_secrets_with_it() {
        let folder = Fixture::new("rotation");
        folder.write("a", SECRET);
        let hooks = SecretDir::open(folder.0.clone()).unwrap();
        assert_eq!(hooks.current().await.len(), 1);
        folder.write("a.new", "another-canary-secret");
        assert_eq!(
            hooks.current().await.len(),
            1,
            "a reading counts for a while"
        );
        tokio::time::advance(CACHE_TTL).await;
        assert_eq!(hooks.current().await.len(), 2);
        fs::remove_file(folder.0.join("a")).unwrap();
        tokio::time::advance(CACHE_TTL).await;
        assert_eq!(hooks.current().await.len(), 1);
        fs::remove_dir_all(&folder.0).unwrap();
        tokio::time::advance(CACHE_TTL).await;
        assert!(hooks.current().await.is_empty());
    }
}
