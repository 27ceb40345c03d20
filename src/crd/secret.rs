//! The Kubernetes Secret of a binding.
//!
//! Input: `spec.managedSecret` as users write it.
//! Output: its type and schema.
//! Invariants: data only; the doc comments are the manual of the fields.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    files::{FileSpec, SecretType},
    restart::RestartSpec,
};

/// The suffix of the name of the Secret with the files.
pub const FILES_SUFFIX: &str = "-files";

/// The Kubernetes Secret that the operator writes, and the Secret with the files if there are any.
/// Both are in the binding's namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.type) || !has(self.files) || size(self.files) == 0 || (self.type == 'kubernetes.io/tls' ? 'tls.crt' in self.files && 'tls.key' in self.files : self.type == 'kubernetes.io/dockerconfigjson' ? '.dockerconfigjson' in self.files : self.type == 'kubernetes.io/ssh-auth' ? 'ssh-privatekey' in self.files : self.type == 'kubernetes.io/basic-auth' ? 'username' in self.files || 'password' in self.files : true)"
).message("files lacks a key that type needs: tls.crt and tls.key, .dockerconfigjson, ssh-privatekey, or username or password"))]
#[x_kube(validation = Rule::new("!has(self.files) || !has(self.name) || size(self.name) <= 247")
    .message("the Secret with the files has the name of the Secret and -files: use a name of at most 247 characters"))]
pub struct ManagedSecretSpec {
    /// Name of the Secret. After a change, the operator writes the new Secret first, and deletes
    /// the old one once no pool refers to it. Default: the binding's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: Option<String>,
    /// Labels of the Secret, such as `team: data`. Labels of other clients stay. The prefixes
    /// `kubernetes.io` and `doppler-prefect.dev` are rejected. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(k, size(k) <= 317 && !k.contains('kubernetes.io/') && !k.startsWith('doppler-prefect.dev/'))")
        .message("the label prefixes kubernetes.io and doppler-prefect.dev belong to Kubernetes and to this operator: use a prefix of your own"))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Secret, such as `example.com/owner: data`. Annotations of other clients
    /// stay. The prefixes `kubernetes.io` and `doppler-prefect.dev` are rejected. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(k, size(k) <= 317 && !k.contains('kubernetes.io/') && !k.startsWith('doppler-prefect.dev/'))")
        .message("the annotation prefixes kubernetes.io and doppler-prefect.dev belong to Kubernetes and to this operator: use a prefix of your own"))]
    pub annotations: BTreeMap<String, String>,
    /// What happens to the Secret when the binding is deleted. `Delete`: the operator or the
    /// garbage collector deletes it. `Retain`: it stays. Default: `Delete`, and `Retain` for a
    /// Secret that the binding adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// Adopts an existing Secret of that name if no controller and no other binding owns it, and if
    /// the Secret has the annotation `doppler-prefect.dev/adopt` with the name of the binding. The
    /// operator then replaces all of its `data`. The operator's `--adopt-without-consent` makes the
    /// annotation unnecessary. Default: false, which leaves such a Secret untouched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt: bool,
    /// Reserved names to include anyway, each in full, such as `PYTHONPATH`. By default the
    /// operator excludes names that could break or take over the job pod: `PATH`, `HOME`,
    /// `HOSTNAME`, `PS1`, `PS4`, `PROMPT_COMMAND`, `IFS`, `ENV`, `BASH_ENV`, `BASHOPTS`,
    /// `SHELLOPTS`, `LD_*`, `DYLD_*`, `GCONV_PATH`, `LOCPATH`, `GLIBC_TUNABLES`, `HOSTALIASES`,
    /// `LOCALDOMAIN`, `RES_OPTIONS`, `PYTHON*`, `PIP_*`, `UV_*`, `EXTRA_PIP_PACKAGES`,
    /// `NODE_OPTIONS`, `NODE_PATH`, `NODE_EXTRA_CA_CERTS`, `NODE_TLS_REJECT_UNAUTHORIZED`,
    /// `PERL5*`, `PERLLIB`, `RUBYOPT`, `RUBYLIB`, `JAVA_TOOL_OPTIONS`, `JDK_JAVA_OPTIONS`,
    /// `_JAVA_OPTIONS`, `CLASSPATH`, `DOTNET_STARTUP_HOOKS`, `OPENSSL_*`, `SSL_CERT_FILE`,
    /// `SSL_CERT_DIR`, `SSLKEYLOGFILE`, `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`, `GIT_*`, `BROWSER`,
    /// `EDITOR`, `VISUAL`, `PAGER`, `KUBECONFIG`, `PREFECT_*`, `KUBERNETES_*`. The operator's
    /// `--forbidden-name` forbids names that this field cannot allow. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 200)))]
    #[x_kube(validation = super::plain_text::plain_texts())]
    pub allow_reserved_names: Vec<String>,
    /// Type of the Secret with the files, or without files of the only Secret: `Opaque`,
    /// `kubernetes.io/tls`, `kubernetes.io/dockerconfigjson`, `kubernetes.io/basic-auth` or
    /// `kubernetes.io/ssh-auth`. Kubernetes never changes the type of a Secret: after a change, delete
    /// the Secret, and the operator creates it again. Default: `Opaque`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<SecretType>,
    /// Files, at most 16, by name, such as `profiles.yml`. They are the keys of a second Secret, which
    /// has the name of the Secret and `-files`, and which pods can mount. They are never environment
    /// variables. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new("self.all(k, size(k) <= 253 && k.matches('^[-._a-zA-Z0-9]+$') && k != '.' && !k.startsWith('..'))")
        .message("a file has a name that cannot be a key of a Secret: use at most 253 letters, digits, -, _ and ."))]
    pub files: BTreeMap<String, FileSpec>,
    /// Workloads that restart when the content of the Secret changes. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartSpec>,
}

/// The name of the Secret with the files of the binding whose Secret has this name.
#[must_use]
pub fn files_secret_of(secret: &str) -> String {
    format!("{secret}{FILES_SUFFIX}")
}

impl ManagedSecretSpec {
    /// The name of the Secret with the files, if the Secret has this name. None without files.
    #[must_use]
    pub fn files_secret_name(&self, secret: &str) -> Option<String> {
        (!self.files.is_empty()).then(|| files_secret_of(secret))
    }

    /// What happens to the Secret when the binding is deleted. `adopted` says whether the binding
    /// adopted it.
    #[must_use]
    pub fn deletion_policy(&self, adopted: bool) -> DeletionPolicy {
        let default = if adopted {
            DeletionPolicy::Retain
        } else {
            DeletionPolicy::Delete
        };
        self.deletion_policy.unwrap_or(default)
    }
}

// The schema of an optional enum shows this description, and not that of the field.
/// What happens to the Secret when the binding is deleted. `Delete`: the operator or the garbage
/// collector deletes it. `Retain`: it stays. Default: `Delete`, and `Retain` for a Secret that the
/// binding adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It is deleted once no work pool refers to it.
    Delete,
    /// It stays. A new binding needs `adopt: true`, and the Secret's consent, to adopt it.
    Retain,
}
