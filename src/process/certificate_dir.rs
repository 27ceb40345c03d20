//! The directory of a server certificate and its key.
//!
//! Input: a directory with `tls.crt` and `tls.key`, as the kubelet mounts a Secret of type
//! `kubernetes.io/tls`.
//! Output: the TLS configuration of a server.
//! Invariants: the files are read again when a connection arrives and the last read is older than
//! [`CACHE_TTL`], so a rotation needs no restart. Files that cannot be used are logged once, without
//! content, and the last good certificate stays in use.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    InconsistentKeys, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use sha2::{Digest, Sha256};
use tokio::{sync::Mutex, time::Instant};
use tracing::{error, info};

/// How long the last read is used.
const CACHE_TTL: Duration = Duration::from_secs(2);
/// The largest file that is read. A Secret is not larger.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Why the directory yields no certificate.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot use the certificate in {path:?} ({problem}): mount a Secret of type kubernetes.io/tls there"
)]
pub struct CertificateDirError {
    path: PathBuf,
    problem: Problem,
}

/// What is wrong with the files. It quotes none of their content.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("{0} cannot be read: {1}")]
    Unreadable(&'static str, io::ErrorKind),
    #[error("{0} is larger than 1 MiB")]
    TooLarge(&'static str),
    #[error("tls.crt has no certificate in PEM, or an invalid one")]
    NoCertificate,
    #[error("tls.key has no unencrypted private key in PEM, or one of an unknown type")]
    NoKey,
    #[error("tls.key is not the key of the first certificate in tls.crt")]
    Mismatch,
}

/// The content of both files.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// What the last read found.
struct LastRead {
    at: Instant,
    /// Hash of the files of `config`.
    hash: [u8; 32],
    config: Arc<ServerConfig>,
    /// Why the files of the last read are not in use.
    problem: Option<Problem>,
}

/// The directory, and the last good certificate. Copies share it.
#[derive(Clone)]
pub struct CertificateDir {
    path: Arc<Path>,
    last: Arc<Mutex<LastRead>>,
}

impl CertificateDir {
    /// Opens the directory.
    ///
    /// # Errors
    /// If it has no usable certificate, so that a mistake is reported at the start and not when the
    /// first connection fails.
    pub fn open(path: PathBuf) -> Result<Self, CertificateDirError> {
        let read = read(&path).and_then(|files| Ok((files.hash(), server_config(&files)?)));
        let (hash, config) = match read {
            Ok(read) => read,
            Err(problem) => return Err(CertificateDirError { path, problem }),
        };
        Ok(Self {
            path: path.into(),
            last: Arc::new(Mutex::new(LastRead {
                at: Instant::now(),
                hash,
                config,
                problem: None,
            })),
        })
    }

    /// The TLS configuration with the newest usable certificate.
    pub async fn current(&self) -> Arc<ServerConfig> {
        let mut last = self.last.lock().await;
        if last.at.elapsed() >= CACHE_TTL {
            let (path, hash) = (Arc::clone(&self.path), last.hash);
            let reread = tokio::task::spawn_blocking(move || reread(&path, &hash)).await;
            // The task only fails if it panics. Then the last good certificate stays.
            if let Ok(reread) = reread {
                last.update(reread);
            }
            last.at = Instant::now();
        }
        Arc::clone(&last.config)
    }
}

/// The files after a change. `None` if they are those in use.
type Reread = Result<Option<([u8; 32], Arc<ServerConfig>)>, Problem>;

impl LastRead {
    fn update(&mut self, reread: Reread) {
        match reread {
            Ok(changed) => {
                if let Some((hash, config)) = changed {
                    (self.hash, self.config) = (hash, config);
                    info!("new certificate of the metrics port read");
                }
                self.problem = None;
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(&problem) {
                    error!(
                        %problem,
                        "cannot use the new certificate of the metrics port; the last good one stays in use"
                    );
                }
                self.problem = Some(problem);
            }
        }
    }
}

fn reread(path: &Path, hash: &[u8; 32]) -> Reread {
    let changed = || {
        let files = read(path)?;
        let new = files.hash();
        let changed = new != *hash;
        changed
            .then(|| Ok((new, server_config(&files)?)))
            .transpose()
    };
    // The kubelet may have replaced the files between both reads.
    changed().or_else(|_| changed())
}

impl Files {
    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.certificate.len().to_be_bytes());
        hash.update(&self.certificate);
        hash.update(&self.key);
        hash.finalize().into()
    }
}

fn read(path: &Path) -> Result<Files, Problem> {
    Ok(Files {
        certificate: read_file(path, CERTIFICATE)?,
        key: read_file(path, KEY)?,
    })
}

fn read_file(directory: &Path, name: &'static str) -> Result<Vec<u8>, Problem> {
    let mut content = Vec::new();
    let read = File::open(directory.join(name))
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content));
    match read {
        Err(error) => Err(Problem::Unreadable(name, error.kind())),
        Ok(_) if content.len() as u64 > MAX_FILE_BYTES => Err(Problem::TooLarge(name)),
        Ok(_) => Ok(content),
    }
}

/// TLS 1.2 and 1.3 for HTTP/1.1, without client certificates.
fn server_config(files: &Files) -> Result<Arc<ServerConfig>, Problem> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&files.certificate)
        .collect::<Result<_, _>>()
        .map_err(|_| Problem::NoCertificate)?;
    if chain.is_empty() {
        return Err(Problem::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|_| Problem::NoKey)?;
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| Problem::NoKey)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Problem::Mismatch,
            rustls::Error::InvalidCertificate(_) => Problem::NoCertificate,
            _ => Problem::NoKey,
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests;
