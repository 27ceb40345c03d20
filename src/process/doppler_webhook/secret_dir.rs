//! The directory of the webhook secrets.
//!
//! Input: a directory, as the kubelet mounts a Secret: one file for each key.
//! Output: the secrets that are valid now.
//! Invariants: the directory is read again when a webhook arrives and the last read is older than
//! [`CACHE_TTL`], so a rotation needs no restart. Rejected files are logged once, without content.

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

/// How long the last read is used.
pub const CACHE_TTL: Duration = Duration::from_secs(2);
/// Entries of the directory that are read at most.
const MAX_ENTRIES: usize = 1024;

/// Why the directory yields no secrets.
#[derive(Debug, thiserror::Error)]
pub enum SecretDirError {
    /// The directory cannot be read.
    #[error(
        "cannot read {path:?}, the directory of --webhook-secrets ({source}): correct the path or its permissions"
    )]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A file that is not used as a webhook secret.
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

/// The content of the directory.
#[derive(Debug, Default, PartialEq)]
struct DirContents {
    secrets: Arc<WebhookSecrets>,
    rejected: Vec<RejectedFile>,
    /// Why the directory as a whole could not be read.
    error: Option<io::ErrorKind>,
}

/// The directory, and its content at the last read.
#[derive(Debug)]
pub struct SecretDir {
    path: PathBuf,
    last: Mutex<(Instant, DirContents)>,
}

impl SecretDir {
    /// Opens the directory.
    ///
    /// # Errors
    /// If it cannot be read, so that a mistyped path is reported at the start and not when the first
    /// webhook is rejected.
    pub fn open(path: PathBuf) -> Result<Self, SecretDirError> {
        let contents = match read_contents(&path) {
            Ok(contents) => contents,
            Err(source) => return Err(SecretDirError::Unreadable { path, source }),
        };
        log_contents(&contents);
        Ok(Self {
            path,
            last: Mutex::new((Instant::now(), contents)),
        })
    }

    /// The secrets that are valid now.
    pub async fn current(&self) -> Arc<WebhookSecrets> {
        let mut last = self.last.lock().await;
        if last.0.elapsed() >= CACHE_TTL {
            let path = self.path.clone();
            // The task only fails if it panics. Then no secret is valid.
            let contents = tokio::task::spawn_blocking(move || reread(&path))
                .await
                .unwrap_or_default();
            if contents != last.1 {
                log_contents(&contents);
            }
            *last = (Instant::now(), contents);
        }
        Arc::clone(&last.1.secrets)
    }
}

fn log_contents(contents: &DirContents) {
    if let Some(error) = contents.error {
        error!(
            %error,
            "cannot read the directory of the webhook secrets; the operator rejects all webhooks until it can"
        );
        return;
    }
    for RejectedFile { name, reason } in &contents.rejected {
        warn!(file = name, %reason, "a file is no valid webhook secret; the operator ignores it");
    }
    info!(secrets = contents.secrets.len(), "webhook secrets read");
}

/// Reads the directory again. If that fails there are no secrets: a secret that was removed must
/// not stay valid.
fn reread(path: &Path) -> DirContents {
    let read = match read_contents(path) {
        Ok(contents) if !contents.is_torn() => return contents,
        // The kubelet was replacing the files during the read.
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
            .any(|file| matches!(file.reason, RejectReason::Unreadable(_)))
    }
}

fn read_contents(path: &Path) -> io::Result<DirContents> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)?.take(MAX_ENTRIES) {
        let name = entry?.file_name();
        // The kubelet's own entries: `..data`, and the directories that it points to.
        if !name.as_encoded_bytes().starts_with(b"..") {
            names.push(name);
        }
    }
    names.sort();
    let (mut secrets, mut rejected) = (Vec::new(), Vec::new());
    for name in names {
        let file = path.join(&name);
        if file.is_dir() {
            continue;
        }
        let secret = if secrets.len() < MAX_SECRETS {
            read_file(&file)
                .map_err(|error| RejectReason::Unreadable(error.kind()))
                .and_then(|content| {
                    // No project has a name that is not UTF-8.
                    let name = name.to_str().unwrap_or_default();
                    Ok(WebhookSecret::new(name, &content)?)
                })
        } else {
            Err(WebhookSecretError::TooMany.into())
        };
        match secret {
            Ok(secret) => secrets.push(secret),
            Err(reason) => rejected.push(RejectedFile {
                name: name.to_string_lossy().into_owned(),
                reason,
            }),
        }
    }
    Ok(DirContents {
        secrets: Arc::new(secrets.into_iter().collect()),
        rejected,
        error: None,
    })
}

/// Reads a file, but no more of it than shows that it is too long.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // A newline of one or two bytes, and one byte too many.
    let max_bytes = MAX_SECRET_BYTES as u64 + 3;
    let mut content = Vec::new();
    File::open(path)?
        .take(max_bytes)
        .read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests;
