//! What users write and read: the `DopplerPrefectBinding` resource.
//!
//! Input: YAML that users apply.
//! Output: typed spec and status, and the CRD itself ([`crd_yaml`]).
//! Invariants: the field docs are the user manual that `kubectl explain` shows; the API server
//! checks the rules at apply; this module never connects to anything.

mod binding;
mod binding_ref;
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
mod plain_text;
mod prefect;
mod references;
mod refresh;
mod restart;
mod secret;
mod status;
mod uid;

pub use binding::{DopplerPrefectBinding, DopplerPrefectBindingSpec, crd_yaml};
pub use binding_ref::BindingRef;
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
pub use plain_text::{PLAIN_TEXT_RULE, control_character};
pub use prefect::{ApiKey, BasicAuth, BlockSpec, CaBundle, Header, PrefectSpec, ServerSpec};
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
pub use secret::{DeletionPolicy, ManagedSecretSpec};
pub use status::{
    DopplerPrefectBindingStatus, ExcludedKey, FilesStatus, ResolvedConfig, WorkPoolState,
    WorkPoolStatus,
};
pub use uid::Uid;
