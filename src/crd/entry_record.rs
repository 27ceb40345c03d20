//! A pool entry, and the record of the entries that name a Secret, as the Secret itself carries it.
//!
//! Input: the entries, how their servers are reached, and the text of the annotation.
//! Output: the text of the annotation, and what it says.
//! Invariants: pure. The text is bounded and holds no credential, only references to them. It counts
//! for the binding whose UID the Secret carries, because authors of bindings cannot write Secrets. A
//! copy of the Secret, under another name or in another namespace, carries no valid record.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    inject::is_variable,
    prefect::{ServerChoice, ServerSpec},
    secret::files_secret_of,
};

/// Annotation on a managed Secret: the pool entries that name it.
pub const ENTRIES_ANNOTATION: &str = "doppler-prefect.dev/work-pool-entries";
/// Maximum number of entries that are recorded for one binding. The spec names at most 16 pools;
/// the others are entries of earlier specs, which wait for a server.
pub const MAX_ENTRIES: usize = 64;
/// Maximum length of the annotation in bytes.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;

/// A pool entry that the operator may have written.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct InjectedEntry {
    /// URL of the Prefect server's API.
    pub server: String,
    /// Name of the work pool.
    pub pool: String,
    /// Name of the Secret in the entry. Of a mount, that of the Secret beside which the Secret with
    /// the files is.
    pub secret: String,
    /// The variable of the pool that offers the name of the Secret. Absent if all runs get it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// Whether this is the volume of the Secret with the files and its mount, and not the entry in
    /// `envFrom`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mount: bool,
}

impl InjectedEntry {
    /// The Secret with the files, if this is a mount.
    #[must_use]
    pub fn files_secret(&self) -> Option<String> {
        self.mount.then(|| files_secret_of(&self.secret))
    }

    /// Whether the Secret of this name has to outlive the entry: the pool names it, or it carries the
    /// record of the entry.
    #[must_use]
    pub fn needs(&self, secret: &str) -> bool {
        self.secret == secret || self.files_secret().as_deref() == Some(secret)
    }
}

/// The pool entries that name one Secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EntryRecord {
    /// Namespace and name of the Secret.
    pub secret: String,
    /// Whether the Secret stays when the binding is deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retain: bool,
    /// The servers, and their pools.
    pub servers: Vec<RecordedServer>,
}

/// The entries on one server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecordedServer {
    /// URL of the server's API.
    pub url: String,
    /// How the binding reached it, without inline credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<ServerSpec>,
    /// The `ClusterPrefectServer` by which the binding reached it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_ref: Option<String>,
    /// The work pools with an entry that names the Secret.
    pub pools: BTreeSet<String>,
    /// The work pools with a variable that offers the Secret's name, and these variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selected: BTreeMap<String, BTreeSet<String>>,
    /// The work pools with a mount of the Secret with the files.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub mounts: BTreeSet<String>,
}

impl EntryRecord {
    /// Parses the annotation of a Secret, without servers that no spec can name. None if its text is not one that
    /// the operator writes.
    #[must_use]
    pub fn parse(text: &str, namespace: &str, secret: &str) -> Option<Self> {
        let record = Self::parse_valid(text)?;
        (record.secret == secret_ref(namespace, secret)).then_some(record)
    }

    /// Parses a text for which [`Self::parse`] has found that it belongs to its Secret.
    #[must_use]
    pub fn parse_valid(text: &str) -> Option<Self> {
        if text.len() > MAX_RECORD_BYTES {
            return None;
        }
        let mut record: Self = serde_json::from_str(text).ok()?;
        record.servers.retain(|server| is_api_url(&server.url));
        for server in &mut record.servers {
            for variables in server.selected.values_mut() {
                variables.retain(|variable| is_variable(variable));
            }
        }
        (record.len() <= MAX_ENTRIES).then_some(record)
    }

    /// The record of `entries`, in the order of their servers, for a Secret in `namespace`. `choices` says
    /// how each server is reached. None without entries.
    #[must_use]
    pub fn of<'a>(
        namespace: &str,
        entries: impl IntoIterator<Item = &'a InjectedEntry>,
        choices: &BTreeMap<String, ServerChoice>,
        retain: bool,
    ) -> Option<Self> {
        let mut servers: BTreeMap<&str, RecordedServer> = BTreeMap::new();
        let mut secret = String::new();
        for entry in entries {
            if secret.is_empty() {
                secret = secret_ref(namespace, &entry.secret);
            }
            let url = entry.server.as_str();
            let server = servers
                .entry(url)
                .or_insert_with(|| RecordedServer::of(url, choices.get(url)));
            let pool = entry.pool.clone();
            match &entry.variable {
                _ if entry.mount => server.mounts.insert(pool),
                None => server.pools.insert(pool),
                Some(variable) => {
                    let selected = server.selected.entry(pool).or_default();
                    selected.insert(variable.clone())
                }
            };
        }
        let servers: Vec<RecordedServer> = servers.into_values().collect();
        (!servers.is_empty()).then_some(Self {
            secret,
            retain,
            servers,
        })
    }

    /// The text of the annotation. A record that is too long leaves out how servers are reached.
    #[must_use]
    pub fn to_text(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        if text.len() <= MAX_RECORD_BYTES {
            return text;
        }
        let mut bare = self.clone();
        for server in &mut bare.servers {
            server.spec = None;
            server.server_ref = None;
        }
        serde_json::to_string(&bare).unwrap_or_default()
    }

    /// The entries.
    pub fn entries(&self) -> impl Iterator<Item = InjectedEntry> + '_ {
        let (_, secret) = self.secret.split_once('/').unwrap_or_default();
        self.servers.iter().flat_map(move |server| {
            let all = server.pools.iter().map(|pool| (pool, None, false));
            let mounts = server.mounts.iter().map(|pool| (pool, None, true));
            let selected = server.selected.iter().flat_map(|(pool, variables)| {
                let variables = variables.iter();
                variables.map(move |variable| (pool, Some(variable.clone()), false))
            });
            all.chain(selected)
                .chain(mounts)
                .map(move |(pool, variable, mount)| InjectedEntry {
                    server: server.url.clone(),
                    pool: pool.clone(),
                    secret: secret.to_owned(),
                    variable,
                    mount,
                })
        })
    }

    fn len(&self) -> usize {
        self.entries().count()
    }
}

impl RecordedServer {
    fn of(url: &str, choice: Option<&ServerChoice>) -> Self {
        let (spec, server_ref) = match choice {
            Some(ServerChoice::Own(spec)) => (Some(without_inline_credentials(spec)), None),
            Some(ServerChoice::Shared(name)) => (None, Some(name.clone())),
            None => (None, None),
        };
        Self {
            url: url.to_owned(),
            spec,
            server_ref,
            ..Self::default()
        }
    }

    /// How the server is reached, if the record says so.
    #[must_use]
    pub fn choice(&self) -> Option<ServerChoice> {
        let shared = self.server_ref.clone().map(ServerChoice::Shared);
        shared.or_else(|| Some(ServerChoice::Own(Box::new(self.spec.clone()?))))
    }
}

fn secret_ref(namespace: &str, secret: &str) -> String {
    format!("{namespace}/{secret}")
}

/// Whether a spec can name this URL. One with a user name or a password would show them wherever the
/// entry is reported.
fn is_api_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        url.as_str() == text
            && matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
    })
}

/// The same server without credentials that stand in the spec itself.
fn without_inline_credentials(spec: &ServerSpec) -> ServerSpec {
    let mut spec = spec.clone();
    spec.api_key = spec.api_key.filter(|key| key.value.is_none());
    spec.headers.retain(|header| header.value.is_none());
    spec
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::{ApiKey, Header, InlineValue};

    fn entry(server: &str, pool: &str) -> InjectedEntry {
        InjectedEntry {
            server: server.to_owned(),
            pool: pool.to_owned(),
            secret: "s".to_owned(),
            variable: None,
            mount: false,
        }
    }

    fn mount(server: &str, pool: &str) -> InjectedEntry {
        InjectedEntry {
            mount: true,
            ..entry(server, pool)
        }
    }

    fn selected(server: &str, pool: &str, variable: &str) -> InjectedEntry {
        InjectedEntry {
            variable: Some(variable.to_owned()),
            ..entry(server, pool)
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let entries = BTreeSet::from([
            entry("http://a/api", "k"),
            entry("http://b/api", "k"),
            selected("http://b/api", "k", "x"),
            selected("http://b/api", "k", "y"),
            mount("http://b/api", "k"),
            mount("http://c/api", "k"),
        ]);
        let spec = ServerSpec {
            name: Some("a".to_owned()),
            ..ServerSpec::default()
        };
        let choices = BTreeMap::from([
            ("http://a/api".to_owned(), ServerChoice::Own(Box::new(spec))),
            (
                "http://b/api".to_owned(),
                ServerChoice::Shared("cloud".to_owned()),
            ),
        ]);
        let record = EntryRecord::of("ns", &entries, &choices, true).unwrap();
        let read: Vec<_> = record
            .servers
            .iter()
            .filter_map(|server| Some((server.url.clone(), server.choice()?)))
            .collect();
        assert_eq!(read, choices.clone().into_iter().collect::<Vec<_>>());
        let text = record.to_text();
        let read = EntryRecord::parse(&text, "ns", "s").unwrap();
        for (namespace, copy) in [("ns", "copy"), ("other", "s")] {
            assert_eq!(EntryRecord::parse(&text, namespace, copy), None);
        }
        assert_eq!(read, record);
        assert_eq!(read.entries().collect::<BTreeSet<_>>(), entries);
        assert_eq!(EntryRecord::of("ns", &[], &choices, false), None);
    }

    #[test]
    fn holds_no_inline_credential() {
        let inline = || Some(InlineValue("canary".to_owned()));
        let header = |value| Header {
            name: "X-Key".to_owned(),
            value,
            value_from: None,
        };
        let spec = ServerSpec {
            api_key: Some(ApiKey {
                value: inline(),
                value_from: None,
            }),
            headers: vec![header(inline()), header(None)],
            ..ServerSpec::default()
        };
        let specs =
            BTreeMap::from([("http://a/api".to_owned(), ServerChoice::Own(Box::new(spec)))]);
        let record = EntryRecord::of("ns", &[entry("http://a/api", "k")], &specs, false).unwrap();
        assert!(!record.to_text().contains("canary"), "{}", record.to_text());
        assert_eq!(record.servers[0].spec.as_ref().unwrap().headers.len(), 1);
    }

    #[test]
    fn ignores_servers_that_no_spec_can_name() {
        for url in [
            "http://u:p@a/api",
            "http://u@a/api",
            "ftp://a/api",
            "HTTP://A/api",
            "a",
        ] {
            let servers = json!([{"url": url, "pools": ["k"]}]);
            let record = json!({"secret": "ns/s", "servers": servers}).to_string();
            let read = EntryRecord::parse(&record, "ns", "s").unwrap();
            assert_eq!(read.len(), 0, "{url}");
        }
    }

    #[test]
    fn ignores_what_cannot_be_a_variable() {
        let selected = json!({"k": ["x", "a b", "{{ y }}"]});
        let servers = json!([{"url": "http://a/api", "pools": [], "selected": selected}]);
        let record = json!({"secret": "ns/s", "servers": servers}).to_string();
        let read = EntryRecord::parse(&record, "ns", "s").unwrap();
        let variables: Vec<_> = read.entries().filter_map(|entry| entry.variable).collect();
        assert_eq!(variables, ["x"]);
    }

    #[test]
    fn rejects_what_it_never_writes() {
        let pools: Vec<_> = (0..=MAX_ENTRIES)
            .map(|n| entry("http://a/api", &n.to_string()))
            .collect();
        let many = EntryRecord::of("ns", &pools, &BTreeMap::new(), false).unwrap();
        let long = format!(
            "{{\"secret\":\"ns/s\",\"servers\":[{}]}}",
            " ".repeat(MAX_RECORD_BYTES)
        );
        let variables = (0..=MAX_ENTRIES).map(|n| selected("http://a/api", "k", &format!("v{n}")));
        let variables: Vec<_> = variables.collect();
        let variables = EntryRecord::of("ns", &variables, &BTreeMap::new(), false).unwrap();
        for text in [
            "",
            "[]",
            "{",
            "null",
            &many.to_text(),
            &variables.to_text(),
            &long,
        ] {
            assert_eq!(EntryRecord::parse(text, "ns", "s"), None);
        }
    }
}
