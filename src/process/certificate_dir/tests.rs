use super::*;
use std::fs;
use testkit::folder::ScratchDir;
use tokio::time::advance;

/// A certificate and its key in PEM.
fn pair() -> (String, String) {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    (own.cert.pem(), own.signing_key.serialize_pem())
}

fn write(dir: &ScratchDir, certificate: &str, key: &str) {
    fs::write(dir.path().join(CERTIFICATE), certificate).unwrap();
    fs::write(dir.path().join(KEY), key).unwrap();
}

fn open(dir: &ScratchDir) -> Result<CertificateDir, CertificateDirError> {
    CertificateDir::open(dir.path().to_owned())
}

#[test]
fn unusable_directory_is_named_at_the_start() {
    let dir = ScratchDir::new("certificates").unwrap();
    let (certificate, key) = pair();
    let (other, _) = pair();
    let large = "a".repeat(2 * 1024 * 1024);
    let cases = [
        ("", &key[..], Problem::NoCertificate),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &key,
            Problem::NoCertificate,
        ),
        (&certificate, "", Problem::NoKey),
        (&certificate, &certificate, Problem::NoKey),
        (&other, &key, Problem::Mismatch),
        (&large, &key, Problem::TooLarge(CERTIFICATE)),
    ];
    let missing = open(&dir).err().unwrap();
    let unreadable = Problem::Unreadable(CERTIFICATE, io::ErrorKind::NotFound);
    assert_eq!(missing.problem, unreadable);
    assert!(missing.to_string().contains(&format!("{:?}", dir.path())));
    for (certificate, key, problem) in cases {
        write(&dir, certificate, key);
        assert_eq!(open(&dir).err().map(|error| error.problem), Some(problem));
    }
}

#[tokio::test(start_paused = true)]
async fn rotation_is_read_and_unusable_files_are_not() {
    let dir = ScratchDir::new("certificates").unwrap();
    let (certificate, key) = pair();
    write(&dir, &certificate, &key);
    let certificates = open(&dir).unwrap();
    let first = certificates.current().await;

    let (new_certificate, new_key) = pair();
    write(&dir, &new_certificate, &new_key);
    let cached = certificates.current().await;
    assert!(Arc::ptr_eq(&first, &cached), "the last read is still fresh");
    advance(CACHE_TTL).await;
    let second = certificates.current().await;
    assert!(!Arc::ptr_eq(&first, &second));

    // Half of a rotation, nothing at all, and the same files again.
    for (certificate, key) in [
        (&certificate, &new_key),
        (&String::new(), &String::new()),
        (&new_certificate, &new_key),
    ] {
        write(&dir, certificate, key);
        advance(CACHE_TTL).await;
        assert!(Arc::ptr_eq(&second, &certificates.current().await));
    }
    fs::remove_file(dir.path().join(KEY)).unwrap();
    advance(CACHE_TTL).await;
    assert!(Arc::ptr_eq(&second, &certificates.current().await));
    write(&dir, &certificate, &key);
    advance(CACHE_TTL).await;
    assert!(!Arc::ptr_eq(&second, &certificates.current().await));
}
