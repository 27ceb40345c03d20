//! The names that the demo uses, as a user writes them in the smallest binding.
//!
//! Input: none.
//! Output: constants.
//! Invariants: they equal the names in `examples/smallest.yaml`, `examples/selected.yaml` and
//! `examples/jobs.yaml`.

/// The namespace of the job pods and of the binding.
pub(super) const NAMESPACE: &str = "flows";
/// Doppler's project and config.
pub(super) const DOPPLER_CONFIG: (&str, &str) = ("my-project", "dev");
/// The namespace of the operator.
pub(super) const OPERATOR_NAMESPACE: &str = "doppler-prefect-operator";
/// The Helm release, and with it the service account and the image.
pub(super) const RELEASE: &str = "doppler-prefect-operator";
/// The work pool.
pub(super) const POOL: &str = "k8s";
/// The flow that reads its environment, and its deployment.
pub(super) const FLOW: &str = "my-flow";
/// The deployment of the same flow that `examples/jobs.yaml` selects.
pub(super) const NIGHTLY: &str = "nightly";
/// The flow that reads Doppler with the SDK, and its deployment.
pub(super) const ARTICLE: &str = "article";
/// The name of the secret.
pub(super) const KEY: &str = "SECRET_API_KEY";
/// The value of the secret before the change.
pub(super) const FIRST_VALUE: &str = "1234567890";
/// The value of the secret after the change.
pub(super) const SECOND_VALUE: &str = "0987654321";
/// The Doppler config that a deployment chooses, the block of its binding, and its Secret.
pub(super) const CHOSEN_CONFIG: &str = "prd";
pub(super) const CHOSEN_BLOCK: &str = "doppler-etl-prd";
pub(super) const CHOSEN_SECRET: &str = "etl-prd";
/// The variable of the pool by which it chooses.
pub(super) const VARIABLE: &str = "doppler_config";
/// The value of the secret in the chosen config.
pub(super) const CHOSEN_VALUE: &str = "5432109876";
