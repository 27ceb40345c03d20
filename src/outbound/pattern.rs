//! One entry of `--allowed-prefect-host` or `--allowed-doppler-host`.
//!
//! Input: the text of an entry, and a URL.
//! Output: whether the entry is valid, and whether it matches the URL.
//! Invariants: pure. Only entries with `http://` match plain HTTP.

use std::net::Ipv6Addr;

use globset::{GlobBuilder, GlobMatcher};
use url::{Host, Url};

/// An invalid entry of a list of hosts or Services.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid entry {entry:?} of {flag}: {problem}; use {syntax}")]
pub struct PatternError {
    /// The flag that has the entry.
    pub flag: &'static str,
    /// The entry as given.
    pub entry: String,
    /// What is wrong with it.
    pub problem: &'static str,
    /// The form of a valid entry.
    pub syntax: &'static str,
}

/// The form of a valid entry of a list of hosts.
pub(super) const HOST_SYNTAX: &str = "HOST, HOST:PORT or HOST:*, each with or without https:// or http://, where * matches one label of a name";

#[derive(Clone, Debug)]
pub(super) struct Pattern {
    scheme: Scheme,
    host: HostPattern,
    port: PortPattern,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

#[derive(Clone, Debug)]
enum HostPattern {
    Any,
    Glob(GlobMatcher),
    V6(Ipv6Addr),
}

#[derive(Clone, Copy, Debug)]
enum PortPattern {
    Default,
    Any,
    Exactly(u16),
}

impl Pattern {
    pub(super) fn parse(entry: &str) -> Result<Self, &'static str> {
        let entry = entry.trim().to_ascii_lowercase();
        let (scheme, rest) = match entry.split_once("://") {
            None => (Scheme::Https, entry.as_str()),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(_) => return Err("its scheme is neither https nor http"),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_port(rest)?;
        Ok(Self {
            scheme,
            host: HostPattern::parse(host)?,
            port,
        })
    }

    /// Whether the entry allows this URL.
    pub(super) fn allows(&self, url: &Url) -> bool {
        let scheme = match url.scheme() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return false,
        };
        let port = match self.port {
            // The url crate omits the default port of the scheme.
            PortPattern::Default => url.port().is_none(),
            PortPattern::Any => true,
            PortPattern::Exactly(port) => url.port_or_known_default() == Some(port),
        };
        scheme == self.scheme && port && url.host().is_some_and(|host| self.host.matches(&host))
    }
}

impl HostPattern {
    fn parse(host: &str) -> Result<Self, &'static str> {
        if host == "*" || host == "**" {
            return Ok(Self::Any);
        }
        if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            return inner
                .parse()
                .map(Self::V6)
                .map_err(|_| "the text in brackets is not an IPv6 address");
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() {
            return Err("it names no host");
        }
        if !host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.*?".contains(&b))
        {
            return Err(
                "a host consists of letters, digits, dots, hyphens, and the wildcards * and ?",
            );
        }
        // With dots as separators `*` ends at a dot, as it does in a certificate.
        GlobBuilder::new(&host.replace('.', "/"))
            .literal_separator(true)
            .build()
            .map(|glob| Self::Glob(glob.compile_matcher()))
            .map_err(|_| "its wildcards are not valid")
    }

    fn matches(&self, host: &Host<&str>) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::V6(listed), Host::Ipv6(address)) => listed == address,
            (Self::Glob(glob), Host::Domain(name)) => {
                glob.is_match(name.strip_suffix('.').unwrap_or(name).replace('.', "/"))
            }
            (Self::Glob(glob), Host::Ipv4(address)) => {
                glob.is_match(address.to_string().replace('.', "/"))
            }
            _ => false,
        }
    }
}

fn split_port(rest: &str) -> Result<(&str, PortPattern), &'static str> {
    let split = match rest.rsplit_once(':') {
        // The last colon may be one inside an IPv6 address.
        Some((_, port)) if port.ends_with(']') => None,
        other => other,
    };
    match split {
        None => Ok((rest, PortPattern::Default)),
        Some((host, "*")) => Ok((host, PortPattern::Any)),
        Some((host, port)) => port
            .parse()
            .map(|port| (host, PortPattern::Exactly(port)))
            .map_err(|_| "its port is neither a number nor *"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(entry: &str, url: &str) -> bool {
        Pattern::parse(entry)
            .unwrap()
            .allows(&Url::parse(url).unwrap())
    }

    #[test]
    fn a_host_alone_allows_https_on_the_default_port_only() {
        assert!(allows("api.doppler.com", "https://api.doppler.com/v3"));
        assert!(allows("API.doppler.com", "https://api.Doppler.com:443/v3"));
        assert!(allows("api.doppler.com", "https://api.doppler.com./v3"));
        assert!(!allows("api.doppler.com", "https://api.doppler.com:8443/"));
        assert!(!allows("api.doppler.com", "http://api.doppler.com/"));
        assert!(!allows(
            "api.doppler.com",
            "https://api.doppler.com.evil.example/"
        ));
        assert!(!allows("api.doppler.com", "https://xapi.doppler.com/"));
        assert!(!allows("api.doppler.com", "https://apixdoppler.com/"));
    }

    #[test]
    fn a_port_matches_exactly_unless_it_is_a_wildcard() {
        assert!(allows("x.example:8443", "https://x.example:8443"));
        assert!(!allows("x.example:8443", "https://x.example"));
        assert!(allows("x.example:443", "https://x.example"));
        assert!(allows("x.example:*", "https://x.example:1"));
        assert!(allows("http://127.0.0.1:*", "http://127.0.0.1:35123/api"));
        assert!(!allows("http://127.0.0.1:*", "http://127.0.0.2:35123/api"));
        assert!(!allows("http://127.0.0.1", "http://127.0.0.1:35123/api"));
    }

    #[test]
    fn an_entry_with_a_scheme_allows_that_scheme_only() {
        assert!(allows("http://x.example", "http://x.example/"));
        assert!(!allows("http://x.example", "https://x.example/"));
        assert!(allows("https://x.example/", "https://x.example/"));
        assert!(!allows("https://x.example", "http://x.example/"));
    }

    #[test]
    fn one_star_matches_one_label_and_two_match_any_number() {
        assert!(allows("*.example.com", "https://a.example.com"));
        assert!(!allows("*.example.com", "https://a.b.example.com"));
        assert!(!allows("*.example.com", "https://example.com"));
        assert!(allows("**.example.com", "https://a.b.example.com"));
        assert!(allows("api?.example.com", "https://api1.example.com"));
        assert!(!allows("api?example.com", "https://api.example.com"));
        assert!(allows(
            "http://*.prefect.svc:4200",
            "http://prefect-server.prefect.svc:4200/api"
        ));
        assert!(allows("*", "https://a.b.c"));
        assert!(!allows("*", "http://a.b.c"));
        assert!(!allows("*", "https://a.b.c:8443"));
    }

    #[test]
    fn accepts_an_ipv6_address_in_brackets() {
        assert!(allows("http://[::1]:4200", "http://[::1]:4200/"));
        assert!(allows("[2001:db8::1]", "https://[2001:DB8:0::1]/"));
        assert!(!allows("[2001:db8::1]", "https://[2001:db8::2]/"));
    }

    #[test]
    fn rejects_invalid_entries() {
        for entry in [
            "", "https://", "ftp://x", "x:port", "x:99999", "[x]", "x/path", "user@x", "a b",
            "{a}.x", "::1",
        ] {
            assert!(Pattern::parse(entry).is_err(), "{entry}");
        }
    }
}
