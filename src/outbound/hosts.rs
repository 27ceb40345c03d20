//! Which hosts a binding may send the operator to.
//!
//! In: the entries of a flag, then a URL that a user wrote. Out: leave to go there, or a sentence that says what to write instead. Nothing is
//! resolved or sent here; names that resolve to refused addresses are stopped by the [`super::client`].

use url::{Host, Url};

use super::{PatternError, address, pattern::Pattern};
use crate::reason::Reason;

/// A list of hosts from the operator's flags.
///
/// An entry is `HOST`, `HOST:PORT` or `HOST:*`, each with or without a scheme before it:
/// - without a scheme it allows `https` only; `http://HOST` allows plain HTTP to that host (and only that: list both to allow both);
/// - without a port it allows the scheme's own port only (443 or 80), `:8443` that one port, `:*` any;
/// - in a name `*` stands for one label or a part of it, `?` for one character, and `**` for any number of labels (`**.example.com` is every name
///   below `example.com`, and that name itself). `*` alone is every host;
/// - an IPv6 address stands in brackets and has no wildcards.
///
/// Whatever the entries say, link-local, unspecified and multicast addresses (also those hidden in IPv6), instance metadata services, and user names
/// or passwords in a URL are refused.
///
/// Servers in the cluster are free only when the operator makes the URL itself from `name` and `namespace` ([`super::in_cluster_url`]). A URL
/// that a user wrote, such as `http://prefect-server.prefect.svc:4200`, is an ordinary URL: it needs an entry (`http://*.prefect.svc:4200`), since
/// otherwise a binding could send credentials to every Service of the cluster, on every port.
#[derive(Clone, Debug)]
pub struct AllowedHosts {
    flag: &'static str,
    patterns: Vec<Pattern>,
}

/// Why a URL is not asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostRefused {
    /// Neither https nor http.
    #[error("the URL begins with {scheme}: — write one that begins with https://")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// A user name or password in the URL.
    #[error(
        "the URL of {host} carries a user name or password: leave them out, and give credentials in the field that is made for them"
    )]
    UserInfo {
        /// The host.
        host: String,
    },
    /// The URL names no host.
    #[error("the URL names no host: write one such as https://api.example.com")]
    NoHost,
    /// An address or name that is refused whatever the flags say.
    #[error(
        "{host} is {description}, which is always refused: write the name of the server itself"
    )]
    AlwaysRefused {
        /// The host.
        host: String,
        /// What it is.
        description: &'static str,
    },
    /// Plain HTTP to a host that no entry lists with its scheme.
    #[error(
        "plain http to {host} is not allowed: write https://, or have {entry} added to the operator's {flag}"
    )]
    PlainHttp {
        /// The host.
        host: String,
        /// The entry that would allow it.
        entry: String,
        /// The flag.
        flag: &'static str,
    },
    /// No entry lists it.
    #[error(
        "{host} is not one of the hosts that the operator may ask: correct the URL, or have {entry} added to the operator's {flag}"
    )]
    NotListed {
        /// The host.
        host: String,
        /// The entry that would allow it.
        entry: String,
        /// The flag.
        flag: &'static str,
    },
    /// Name or namespace of a Service that is not a DNS label.
    #[error(
        "the server's {field} is not a name that a Service can have: write lower-case letters, digits and hyphens, at most 63"
    )]
    InvalidLabel {
        /// `name` or `namespace`.
        field: &'static str,
    },
}

impl HostRefused {
    /// The word for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        Reason::HostNotAllowed
    }
}

impl AllowedHosts {
    /// Reads the entries of `flag`, such as `--allowed-doppler-host`. The flag's name is kept for messages.
    ///
    /// # Errors
    /// If an entry cannot be understood.
    pub fn parse(flag: &'static str, entries: &[String]) -> Result<Self, PatternError> {
        let patterns = entries
            .iter()
            .map(|entry| {
                Pattern::parse(entry).map_err(|problem| PatternError {
                    flag,
                    entry: entry.clone(),
                    problem,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { flag, patterns })
    }

    /// Whether a URL that a user wrote may be asked.
    ///
    /// # Errors
    /// If not, with what to write instead.
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
    fn allows_listed_hosts_and_names_the_flag_for_the_rest() {
        let listed = ["api.prefect.cloud", "http://127.0.0.1:*"];
        assert_eq!(check(&listed, "https://api.prefect.cloud/api"), Ok(()));
        assert_eq!(check(&listed, "http://127.0.0.1:4200/api"), Ok(()));

        let refused = check(&listed, "https://prefect.example.com:8443/api").unwrap_err();
        assert_eq!(refused.reason(), Reason::HostNotAllowed);
        assert_eq!(
            refused.to_string(),
            "prefect.example.com is not one of the hosts that the operator may ask: correct the URL, or have prefect.example.com:8443 added to \
             the operator's --allowed-prefect-host"
        );
        assert_eq!(
            check(&listed, "http://api.prefect.cloud/")
                .unwrap_err()
                .to_string(),
            "plain http to api.prefect.cloud is not allowed: write https://, or have http://api.prefect.cloud added to the operator's \
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
    fn a_cluster_address_that_a_user_wrote_needs_an_entry() {
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
    fn an_entry_that_cannot_be_understood_says_what_to_write() {
        let error = AllowedHosts::parse(FLAG, &["ftp://x".to_owned()]).unwrap_err();
        assert!(error.to_string().starts_with(
            "--allowed-prefect-host has the entry \"ftp://x\": its scheme is neither https nor http; write HOST"
        ), "{error}");
    }
}
