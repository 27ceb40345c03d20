//! Which hosts a binding may make the operator call.
//!
//! Input: the entries of a flag, and a URL from a user.
//! Output: `Ok`, or a message that states what to write instead.
//! Invariants: this module resolves no name and sends nothing. The resolver of [`super::client`]
//! stops names that resolve to refused addresses.

use url::{Host, Url};

use super::{
    PatternError, ServiceName, address,
    pattern::{HOST_SYNTAX, Pattern},
};
use crate::reason::Reason;

/// The allowed hosts from one flag of the operator.
///
/// An entry is `HOST`, `HOST:PORT` or `HOST:*`, with or without a scheme in front:
/// - without a scheme it allows `https` only; `http://HOST` allows plain HTTP only (list both to
///   allow both);
/// - without a port it allows the scheme's default port only (443 or 80), `:8443` only that port,
///   and `:*` every port;
/// - in a name `*` matches one label or a part of it, `?` one character, and `**` any number of
///   labels (`**.example.com` matches `example.com` and every name below it). `*` alone matches
///   every host;
/// - an IPv6 address is written in brackets and has no wildcards.
///
/// Link-local, unspecified and multicast addresses (also inside IPv6), instance metadata services,
/// and URLs with a user name or password are always refused.
///
/// A URL that the operator builds itself from `name` and `namespace` ([`super::in_cluster_url`])
/// needs no entry here, but one of [`super::AllowedServices`]. A user's URL of a Service, such as `http://prefect-server.prefect.svc:4200`,
/// does (`http://*.prefect.svc:4200`): otherwise a binding could send credentials to any Service
/// and port of the cluster.
#[derive(Clone, Debug)]
pub struct AllowedHosts {
    flag: &'static str,
    patterns: Vec<Pattern>,
}

/// Why a URL is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostRefused {
    /// The scheme is neither https nor http.
    #[error("the URL has the scheme {scheme}: use one that begins with https://")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// The URL contains a user name or password.
    #[error(
        "the URL of {host} contains a user name or password: remove them, and set the field for credentials"
    )]
    UserInfo {
        /// The host.
        host: String,
    },
    /// The URL names no host.
    #[error("the URL names no host: use one such as https://api.example.com")]
    NoHost,
    /// An address or name that is refused regardless of the flags.
    #[error(
        "{host} is {description}, which the operator always rejects: use the name of the server itself"
    )]
    AlwaysRefused {
        /// The host.
        host: String,
        /// What the host is.
        description: &'static str,
    },
    /// Plain HTTP to a host that no entry allows with the scheme http.
    #[error(
        "plain http to {host} is not allowed: use https://, or add {entry} to the operator's {flag}"
    )]
    PlainHttp {
        /// The host.
        host: String,
        /// The entry that would allow it.
        entry: String,
        /// The flag.
        flag: &'static str,
    },
    /// No entry allows the host.
    #[error(
        "{host} is not an allowed host: correct the URL, or add {entry} to the operator's {flag}"
    )]
    NotListed {
        /// The host.
        host: String,
        /// The entry that would allow it.
        entry: String,
        /// The flag.
        flag: &'static str,
    },
    /// No entry allows the Service.
    #[error(
        "Service {service} is not an allowed Prefect server: correct name and namespace, or add {service} to the operator's {flag}"
    )]
    ServiceNotListed {
        /// The Service.
        service: ServiceName,
        /// The flag.
        flag: &'static str,
    },
    /// The name or namespace of a Service is not a DNS label.
    #[error(
        "the server's {field} is not a valid name of a Service: use lower-case letters, digits and hyphens, at most 63 characters"
    )]
    InvalidLabel {
        /// `name` or `namespace`.
        field: &'static str,
    },
}

impl HostRefused {
    /// Whether other entries of the flags could allow it.
    #[must_use]
    pub const fn is_unlisted(&self) -> bool {
        matches!(
            self,
            Self::PlainHttp { .. } | Self::NotListed { .. } | Self::ServiceNotListed { .. }
        )
    }

    /// The reason for the condition, the Event, the metric and the log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        Reason::HostNotAllowed
    }
}

impl AllowedHosts {
    /// Parses the entries of `flag`, such as `--allowed-doppler-host`. Messages name the flag.
    ///
    /// # Errors
    /// If an entry is invalid.
    pub fn parse(flag: &'static str, entries: &[String]) -> Result<Self, PatternError> {
        let patterns = entries
            .iter()
            .map(|entry| {
                Pattern::parse(entry).map_err(|problem| PatternError {
                    flag,
                    entry: entry.clone(),
                    problem,
                    syntax: HOST_SYNTAX,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { flag, patterns })
    }

    /// Checks a URL from a user.
    ///
    /// # Errors
    /// If the URL is not allowed, with what to write instead.
    pub fn check(&self, url: &Url) -> Result<(), HostRefused> {
        if !matches!(url.scheme(), "https" | "http") {
            return Err(HostRefused::Scheme {
                scheme: url.scheme().to_owned(),
            });
        }
        let host = url.host().ok_or(HostRefused::NoHost)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(HostRefused::UserInfo {
                host: host.to_string(),
            });
        }
        let always = match host {
            Host::Domain(name) => address::refused_name(name),
            Host::Ipv4(v4) => address::refused_address(v4.into()),
            Host::Ipv6(v6) => address::refused_address(v6.into()),
        };
        if let Some(description) = always {
            return Err(HostRefused::AlwaysRefused {
                host: host.to_string(),
                description,
            });
        }
        if self.patterns.iter().any(|pattern| pattern.allows(url)) {
            return Ok(());
        }
        let (host, flag) = (host.to_string(), self.flag);
        let entry = url
            .port()
            .map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        Err(if url.scheme() == "http" {
            HostRefused::PlainHttp {
                entry: format!("http://{entry}"),
                host,
                flag,
            }
        } else {
            HostRefused::NotListed { host, entry, flag }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAG: &str = "--allowed-prefect-host";

    fn check(entries: &[&str], url: &str) -> Result<(), HostRefused> {
        let entries: Vec<String> = entries.iter().map(|&e| e.to_owned()).collect();
        AllowedHosts::parse(FLAG, &entries)
            .unwrap()
            .check(&Url::parse(url).unwrap())
    }

    #[test]
    fn allows_listed_hosts_and_names_the_flag_for_others() {
        let listed = ["api.prefect.cloud", "http://127.0.0.1:*"];
        assert_eq!(check(&listed, "https://api.prefect.cloud/api"), Ok(()));
        assert_eq!(check(&listed, "http://127.0.0.1:4200/api"), Ok(()));

        let refused = check(&listed, "https://prefect.example.com:8443/api").unwrap_err();
        assert_eq!(refused.reason(), Reason::HostNotAllowed);
        assert_eq!(
            refused.to_string(),
            "prefect.example.com is not an allowed host: correct the URL, or add prefect.example.com:8443 to \
             the operator's --allowed-prefect-host"
        );
        assert_eq!(
            check(&listed, "http://api.prefect.cloud/")
                .unwrap_err()
                .to_string(),
            "plain http to api.prefect.cloud is not allowed: use https://, or add http://api.prefect.cloud to the operator's \
             --allowed-prefect-host"
        );
    }

    #[test]
    fn entry_proposed_by_a_message_allows_the_url() {
        for url in [
            "https://a.example/x",
            "https://a.example:8443/",
            "http://a.svc:4200/api",
            "http://[::1]:4200/",
            "http://10.0.0.1/",
        ] {
            let (HostRefused::PlainHttp { entry, .. } | HostRefused::NotListed { entry, .. }) =
                check(&[], url).unwrap_err()
            else {
                panic!("{url}")
            };
            assert_eq!(check(&[&entry], url), Ok(()), "{entry}");
        }
    }

    #[test]
    fn a_user_url_of_a_service_needs_an_entry() {
        let url = "http://prefect-server.prefect.svc:4200/api";
        assert!(check(&["api.prefect.cloud"], url).is_err());
        assert_eq!(check(&["http://*.prefect.svc:4200"], url), Ok(()));
    }

    #[test]
    fn refuses_link_local_addresses_in_every_notation() {
        for url in [
            "http://169.254.169.254/latest/meta-data",
            "http://169.254.169.254./",
            "http://2852039166/",
            "http://0xa9fea9fe/",
            "http://0251.0376.0251.0376/",
            "http://169.16689662/",
            "http://[::ffff:169.254.169.254]/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://[fe80::1]/",
            "http://0/",
            "http://[::]/",
            "http://224.0.0.1/",
            "http://metadata.google.internal/computeMetadata",
            "http://METADATA.google.internal./",
        ] {
            let refused = check(&["*", "http://*:*"], url).unwrap_err();
            assert!(
                matches!(refused, HostRefused::AlwaysRefused { .. }),
                "{url}: {refused}"
            );
        }
    }

    #[test]
    fn refuses_credentials_in_a_url_without_repeating_them() {
        for url in ["https://canary@x.example", "https://u:canary@x.example"] {
            let refused = check(&["*"], url).unwrap_err();
            assert!(matches!(refused, HostRefused::UserInfo { .. }), "{url}");
            assert!(!format!("{refused} {refused:?}").contains("canary"));
        }
    }

    #[test]
    fn refuses_other_schemes() {
        for url in [
            "ftp://x.example/",
            "file:///etc/passwd",
            "data:text/plain,x",
        ] {
            assert!(matches!(
                check(&["*"], url).unwrap_err(),
                HostRefused::Scheme { .. }
            ));
        }
    }

    #[test]
    fn an_invalid_entry_names_the_flag_and_the_fix() {
        let error = AllowedHosts::parse(FLAG, &["ftp://x".to_owned()]).unwrap_err();
        assert!(error.to_string().starts_with(
            "invalid entry \"ftp://x\" of --allowed-prefect-host: its scheme is neither https nor http; use HOST"
        ), "{error}");
    }
}
