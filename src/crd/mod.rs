//! What users write and read: the resources `DopplerPrefectBinding` and `ClusterPrefectServer`.
//!
//! Input: YAML that users apply.
//! Output: typed spec and status, the CRDs themselves ([`crd_yaml`]), and the reference of their fields
//! ([`api_reference`]).
//! Invariants: the field docs are the user manual that `kubectl explain` shows; the API server
//! checks the rules at apply; this module never connects to anything.

mod binding;
mod binding_ref;
mod cluster_server;
mod content;
mod doppler;
mod entry_record;
mod files;
pub mod finalizer;
mod identity;
mod inject;
mod interval;
mod jobs;
mod labels;
mod mount;
mod plain_text;
mod prefect;
mod reference;
mod references;
mod refresh;
mod restart;
mod secret;
mod status;
mod uid;

pub use binding::{DopplerPrefectBinding, DopplerPrefectBindingSpec};
pub use binding_ref::BindingRef;
pub use cluster_server::{
    AllowedNamespaces, ClusterPrefectServer, ClusterPrefectServerSpec, ClusterPrefectServerStatus,
    ClusterServerSpec,
};
pub use content::{ConfigMetadata, ConfigSource, OnConflict};
pub use doppler::{DopplerSpec, NameTransformer};
pub use entry_record::{
    ENTRIES_ANNOTATION, EntryRecord, InjectedEntry, MAX_ENTRIES, MAX_RECORD_BYTES, RecordedServer,
};
pub use files::{FileEncoding, FileFormat, FileSpec, SecretType};
pub use finalizer::FINALIZER;
pub use identity::{IdentitySpec, ServiceAccountRef};
pub use inject::{
    DEFAULT_VARIABLE, InjectMode, InjectSpec, NO_CONFIG, Runs, WorkPoolSpec, is_variable,
};
pub use jobs::{INJECTED_ANNOTATION, JOBS_POLICY, JobSelector, SELECTS_JOBS_LABEL};
pub use labels::{MANAGED_BY, MANAGED_BY_LABEL};
pub use mount::{MountSpec, RESERVED_ROOTS, RESERVED_TREES};
pub use plain_text::{PLAIN_TEXT_RULE, control_character};
pub use prefect::{
    ApiKey, BasicAuth, BlockSpec, CaBundle, Header, PrefectSpec, ServerChoice, ServerRef,
    ServerSpec,
};
pub use reference::api_reference;
pub use references::{
    AccessToken, InlineValue, KeyRef, KeyRefSource, ReferenceKind, SecretKeySource,
};
pub use refresh::{
    InvalidRefresh, MAX_REFRESH_CHARS, REFRESH_ANNOTATION, only_refresh, refresh_request,
};
pub use restart::{
    CONTENT_HASHES_ANNOTATION, RESTART_LABEL, RESTARTED_AT_ANNOTATION, RestartKind, RestartSpec,
    RestartTarget,
};
pub use secret::{DeletionPolicy, FILES_SUFFIX, ManagedSecretSpec, files_secret_of};
pub use status::{
    DopplerPrefectBindingStatus, ExcludedKey, FilesStatus, JobFiles, ResolvedConfig, WorkPoolState,
    WorkPoolStatus,
};
pub use uid::Uid;

use kube::CustomResourceExt;

/// A kind of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `DopplerPrefectBinding`.
    Binding,
    /// `ClusterPrefectServer`.
    ClusterServer,
}

/// The CRD of a kind as YAML: the output of `doppler-prefect-operator crd`, and the content of `crds/`.
///
/// # Errors
/// If the CRD cannot be serialised as YAML, which only a bug in this module can cause.
pub fn crd_yaml(kind: Kind) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(&match kind {
        Kind::Binding => DopplerPrefectBinding::crd(),
        Kind::ClusterServer => ClusterPrefectServer::crd(),
    })
}
