//! Which Services of this cluster a binding may name as its Prefect server.
//!
//! Input: the entries of `--allowed-prefect-service`, and a Service.
//! Output: `Ok`, or a message that states what to write instead.
//! Invariants: pure. The type of a Service is checked elsewhere.

use std::fmt;

use globset::{Glob, GlobMatcher};
use url::Url;

use super::{AllowedHosts, HostRefused, PatternError};

/// The flag, as messages name it.
const FLAG: &str = "--allowed-prefect-service";
/// In place of a namespace: that of the binding. No namespace has this name.
const OWN_NAMESPACE: &str = ".";

/// A Service of this cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl ServiceName {
    /// The Service that a URL such as `http://prefect-server.prefect.svc:4200/api` names.
    #[must_use]
    pub fn of_url(url: &Url) -> Option<Self> {
        let host = url.host_str()?.trim_end_matches('.');
        let host = host.strip_suffix(".cluster.local").unwrap_or(host);
        let (name, namespace) = host.strip_suffix(".svc")?.rsplit_once('.')?;
        // A name with dots is that of a pod of the Service.
        let name = name.rsplit('.').next()?;
        Some(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// The Services that bindings may name, as entries `NAMESPACE/NAME`. In both, `*` matches any
/// characters and `?` one; the namespace `.` is that of the binding.
#[derive(Clone, Debug, Default)]
pub struct AllowedServices(Vec<ServicePattern>);

#[derive(Clone, Debug)]
struct ServicePattern {
    /// None: the namespace of the binding.
    namespace: Option<GlobMatcher>,
    name: GlobMatcher,
}

impl AllowedServices {
    /// Parses the entries. An empty entry allows nothing.
    ///
    /// # Errors
    /// If an entry is invalid.
    pub fn parse(entries: &[String]) -> Result<Self, PatternError> {
        let entries = entries.iter().map(|entry| entry.trim());
        let patterns = entries.filter(|entry| !entry.is_empty()).map(|entry| {
            ServicePattern::parse(entry).map_err(|problem| PatternError {
                flag: FLAG,
                entry: entry.to_owned(),
                problem,
                syntax: "NAMESPACE/NAME, where * and ? are wildcards and the namespace . is that of the binding",
            })
        });
        Ok(Self(patterns.collect::<Result<_, _>>()?))
    }

    /// Checks a Service that a binding in `own_namespace` names.
    ///
    /// # Errors
    /// If no entry allows it, with what to write instead.
    pub fn check(&self, service: &ServiceName, own_namespace: &str) -> Result<(), HostRefused> {
        let allows = |pattern: &ServicePattern| {
            pattern.name.is_match(&service.name)
                && match &pattern.namespace {
                    Some(namespace) => namespace.is_match(&service.namespace),
                    None => service.namespace == own_namespace,
                }
        };
        if self.0.iter().any(allows) {
            Ok(())
        } else {
            Err(HostRefused::ServiceNotListed {
                service: service.clone(),
                flag: FLAG,
            })
        }
    }
}

impl ServicePattern {
    fn parse(entry: &str) -> Result<Self, &'static str> {
        let (namespace, name) = entry.split_once('/').ok_or("it has no slash")?;
        Ok(Self {
            namespace: match namespace {
                OWN_NAMESPACE => None,
                namespace => Some(glob(namespace)?),
            },
            name: glob(name)?,
        })
    }
}

fn glob(text: &str) -> Result<GlobMatcher, &'static str> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if text.is_empty() {
        return Err("a part of it is empty");
    }
    if !text
        .bytes()
        .all(|byte| is_plain(byte) || b"-*?".contains(&byte))
    {
        return Err(
            "a name consists of lower-case letters, digits, hyphens, and the wildcards * and ?",
        );
    }
    let glob = Glob::new(text).map_err(|_| "its wildcards are not valid")?;
    Ok(glob.compile_matcher())
}

/// The Prefect servers that bindings may name.
#[derive(Clone, Debug)]
pub struct AllowedServers {
    /// Hosts of URLs.
    pub hosts: AllowedHosts,
    /// Services by name.
    pub services: AllowedServices,
}

impl AllowedServers {
    /// Parses the entries of `--allowed-prefect-host` and `--allowed-prefect-service`.
    ///
    /// # Errors
    /// If an entry is invalid.
    pub fn parse(hosts: &[String], services: &[String]) -> Result<Self, PatternError> {
        Ok(Self {
            hosts: AllowedHosts::parse("--allowed-prefect-host", hosts)?,
            services: AllowedServices::parse(services)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(entries: &[&str], service: &str, own: &str) -> bool {
        let entries: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
        let (namespace, name) = service.split_once('/').unwrap();
        let service = ServiceName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let allowed = AllowedServices::parse(&entries).unwrap();
        allowed.check(&service, own).is_ok()
    }

    #[test]
    fn entries_match_namespace_and_name() {
        for (entries, service, expected) in [
            (
                &["prefect/prefect-server"][..],
                "prefect/prefect-server",
                true,
            ),
            (&["prefect/prefect-server"], "prefect/other", false),
            (&["prefect/prefect-server"], "other/prefect-server", false),
            (&["./*"], "flows/anything", true),
            (&["./*"], "prefect/prefect-server", false),
            (&["./prefect-*"], "flows/prefect-server", true),
            (&["./prefect-*"], "flows/database", false),
            (&["team-?/prefect*"], "team-a/prefect", true),
            (&["team-?/prefect*"], "team-ab/prefect", false),
            (&["*/*"], "kube-system/kube-dns", true),
            (&["flows/*", "prefect/*"], "prefect/x", true),
            (&[""], "flows/x", false),
            (&[], "flows/x", false),
        ] {
            assert_eq!(
                allows(entries, service, "flows"),
                expected,
                "{entries:?} {service}"
            );
        }
    }

    #[test]
    fn a_refused_service_names_the_entry_that_allows_it() {
        let service = ServiceName {
            namespace: "other".to_owned(),
            name: "database".to_owned(),
        };
        let refused = AllowedServices::default()
            .check(&service, "flows")
            .unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Service other/database is not an allowed Prefect server: correct name and namespace, or add other/database to the operator's --allowed-prefect-service"
        );
        assert!(allows(&["other/database"], "other/database", "flows"));
    }

    #[test]
    fn invalid_entries_name_the_flag() {
        for entry in ["x", "/x", "x/", "a/b/c", "A/b", "a.b/c", "../x", "a/[bc]"] {
            let error = AllowedServices::parse(&[entry.to_owned()]).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("--allowed-prefect-service") && text.contains("NAMESPACE/NAME"),
                "{text}"
            );
        }
    }

    #[test]
    fn finds_the_service_of_a_url() {
        for (url, service) in [
            ("http://a.b.svc:4200/api", Some("b/a")),
            ("https://a.b.svc.cluster.local./api", Some("b/a")),
            ("http://pod-0.a.b.svc/api", Some("b/a")),
            ("http://a.svc/api", None),
            ("http://a.b.example/api", None),
            ("http://10.0.0.1/api", None),
        ] {
            let found = ServiceName::of_url(&url.parse().unwrap());
            let found = found.map(|service| service.to_string());
            assert_eq!(found.as_deref(), service, "{url}");
        }
    }
}
