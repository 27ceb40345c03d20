//! The cached list of the job variables that decide where a pool's deployments run.
//!
//! Input: the version of the claims on the pool, and the variables that its template uses.
//! Output: the deployments that set one of them, listed again when the claims or the variables
//! change, and at every fifth reconcile, or at each one while the pool is read rarely.
//! Invariants: credentials that may not list deployments are no error.

use std::collections::BTreeSet;

use super::pool_client::PoolClient;
use crate::prefect::{DeploymentOverrides, PrefectError};

/// The operator lists the deployments at every reconcile with this number.
const LIST_EVERY: u32 = 5;

struct Listed {
    version: u64,
    variables: BTreeSet<String>,
    age: u32,
    /// `None` if the credentials may not list them.
    overrides: Option<DeploymentOverrides>,
}

/// The cached list.
#[derive(Default)]
pub(super) struct DeploymentListing {
    listed: Option<Listed>,
    /// Whether each reconcile lists the deployments.
    pub(super) every_time: bool,
}

impl DeploymentListing {
    /// Counts a reconcile.
    pub(super) fn start_reconcile(&mut self) {
        if let Some(cached) = self.listed.as_mut() {
            cached.age += 1;
        }
    }

    /// Lists the deployments, if the cached list is too old or of other variables.
    ///
    /// # Errors
    /// If the request fails for another reason than missing permission.
    pub(super) async fn refresh(
        &mut self,
        client: &PoolClient<'_>,
        version: u64,
        variables: BTreeSet<String>,
    ) -> Result<(), PrefectError> {
        if self.listed.as_ref().is_some_and(|cached| {
            cached.version == version
                && cached.variables == variables
                && (cached.age == 0 || (cached.age < LIST_EVERY && !self.every_time))
        }) {
            return Ok(());
        }
        let overrides = match client.deployment_overrides(&variables).await {
            Ok(overrides) => Some(overrides),
            Err(PrefectError::PoolForbidden { .. }) => None,
            Err(error) => return Err(error),
        };
        self.listed = Some(Listed {
            version,
            variables,
            age: 0,
            overrides,
        });
        Ok(())
    }

    /// The deployments by the cached list; `None` if the credentials may not list them.
    pub(super) fn overrides(&self) -> Option<&DeploymentOverrides> {
        self.listed
            .as_ref()
            .and_then(|cached| cached.overrides.as_ref())
    }
}
