//! Says what is wrong with a server's certificate: its name, its dates, or its issuer.
//!
//! Input: the error of the TLS library.
//! Output: a clause that continues "api.doppler.com could not be trusted".
//! Invariants: pure. Names in the certificate are bounded and printable.

use k8s_openapi::jiff::Timestamp;
use rustls::{CertificateError, pki_types::UnixTime};

use crate::printable;

/// Names of the certificate in one message.
const MAX_NAMES: usize = 3;

const PURPOSE: &str = "its issuer does not allow the certificate for servers (extended key usage)";

/// What is wrong with the certificate.
pub(super) fn certificate_problem(problem: &CertificateError) -> String {
    use CertificateError as C;
    match problem {
        C::ExpiredContext { not_after, .. } => {
            format!("its certificate has expired ({})", at(*not_after))
        }
        C::Expired => "its certificate has expired".to_owned(),
        C::NotValidYetContext { not_before, .. } => format!(
            "its certificate is not valid yet (valid from {})",
            at(*not_before)
        ),
        C::NotValidYet => "its certificate is not valid yet".to_owned(),
        C::NotValidForNameContext { presented, .. } => {
            format!("its certificate is for a different name: {}", names(presented))
        }
        C::NotValidForName => "its certificate is for a different name".to_owned(),
        C::UnknownIssuer => {
            "its certificate is signed by an unknown authority (the issuer is neither in the system's roots nor in the CA bundle)".to_owned()
        }
        C::BadSignature => {
            "its certificate is signed with another key than that of the known issuer".to_owned()
        }
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => PURPOSE.to_owned(),
        C::Revoked => "its issuer has revoked the certificate".to_owned(),
        C::BadEncoding => "its certificate cannot be parsed".to_owned(),
        C::UnhandledCriticalExtension => {
            "its certificate has a critical extension that the operator does not know".to_owned()
        }
        C::Other(error) => other(&error.to_string()),
        _ => "its certificate or its issuer uses an algorithm or a form that the operator does not accept".to_owned(),
    }
}

/// The errors that the TLS library passes on without a variant of its own.
fn other(error: &str) -> String {
    match error {
        // In the words of rustls-platform-verifier.
        "certificate had invalid extensions" => PURPOSE.to_owned(),
        "CaUsedAsEndEntity" => {
            "its certificate is itself an authority (CA:TRUE), and no known issuer allows that: put exactly this certificate into the CA bundle".to_owned()
        }
        "EndEntityUsedAsCa" => {
            "the issuer of its certificate is not an authority (CA:FALSE)".to_owned()
        }
        "NameConstraintViolation" => {
            "its issuer may not issue certificates for this name (name constraints)".to_owned()
        }
        error => format!(
            "its certificate or its issuer is not accepted ({})",
            printable::name(error)
        ),
    }
}

/// The first names of a certificate. The TLS library writes them as `DnsName("a.example")`.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "it has no subject alternative name".to_owned();
    }
    let plain = |name: &String| {
        let name = name.split_once('(').map_or(&**name, |(_, name)| name);
        printable::name(name.trim_end_matches(')').trim_matches('"'))
    };
    let mut text: Vec<String> = presented.iter().take(MAX_NAMES).map(plain).collect();
    if presented.len() > MAX_NAMES {
        text.push(format!("and {} more", presented.len() - MAX_NAMES));
    }
    text.join(", ")
}

fn at(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds)
        .map_or_else(|_| "in the far future".to_owned(), |at| at.to_string())
}
