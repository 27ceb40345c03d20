use super::*;
use std::os::unix::fs::symlink;

const SECRET: &str = "canary-canary-canary";

/// A directory of this test's own.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("webhook-secrets-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.0.join(name), content).unwrap();
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn rejected(name: &str, error: WebhookSecretError) -> RejectedFile {
    RejectedFile {
        name: name.to_owned(),
        reason: error.into(),
    }
}

#[test]
fn reads_a_directory_as_the_kubelet_mounts_it() {
    let dir = TempDir::new("kubelet");
    let data = dir.0.join("..2026_01_01");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("backend"), format!("{SECRET}\n")).unwrap();
    fs::write(data.join("empty"), "\n").unwrap();
    symlink("..2026_01_01", dir.0.join("..data")).unwrap();
    symlink("..data/backend", dir.0.join("backend")).unwrap();
    symlink("..data/empty", dir.0.join("empty")).unwrap();
    let contents = read_contents(&dir.0).unwrap();
    assert_eq!(contents.secrets.len(), 1);
    assert_eq!(
        contents.rejected,
        [rejected("empty", WebhookSecretError::TooShort)]
    );
    assert!(!format!("{contents:?}").contains("canary"));
}

#[test]
fn number_and_size_of_files_are_limited() {
    let dir = TempDir::new("bounds");
    for number in 0..=MAX_SECRETS {
        dir.write(&format!("p{number:03}"), SECRET);
    }
    dir.write("a-huge-one", &"x".repeat(1 << 20));
    let contents = read_contents(&dir.0).unwrap();
    assert_eq!(contents.secrets.len(), MAX_SECRETS);
    let expected = [
        rejected("a-huge-one", WebhookSecretError::TooLong),
        rejected("p064", WebhookSecretError::TooMany),
    ];
    assert_eq!(contents.rejected, expected);
}

#[test]
fn a_missing_directory_is_an_error_at_the_start() {
    let error = SecretDir::open("/no/such/folder".into()).unwrap_err();
    assert!(error.to_string().contains("/no/such/folder"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn follows_a_rotation_and_drops_secrets_with_the_directory() {
    let dir = TempDir::new("rotation");
    dir.write("a", SECRET);
    let secrets = SecretDir::open(dir.0.clone()).unwrap();
    assert_eq!(secrets.current().await.len(), 1);
    dir.write("a.new", "another-canary-secret");
    assert_eq!(
        secrets.current().await.len(),
        1,
        "the last read is still used"
    );
    tokio::time::advance(CACHE_TTL).await;
    assert_eq!(secrets.current().await.len(), 2);
    fs::remove_file(dir.0.join("a")).unwrap();
    tokio::time::advance(CACHE_TTL).await;
    assert_eq!(secrets.current().await.len(), 1);
    fs::remove_dir_all(&dir.0).unwrap();
    tokio::time::advance(CACHE_TTL).await;
    assert!(secrets.current().await.is_empty());
}
