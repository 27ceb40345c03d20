//! The cached list of the namespaces to which a pool's deployments send their jobs.
//!
//! Input: the version of the claims on the pool.
//! Output: the namespaces, listed again when the claims change, and at every fifth reconcile, or at
//! each one while the pool is read rarely.
//! Invariants: credentials that may not list deployments are no error.

use super::pool_client::PoolClient;
use crate::prefect::{DeploymentNamespaces, PrefectError};

/// The operator lists the deployments at every reconcile with this number.
const LIST_EVERY: u32 = 5;

struct Listed {
    version: u64,
    age: u32,
    /// `None` if the credentials may not list them.
    namespaces: Option<DeploymentNamespaces>,
}

/// The cached list.
#[derive(Default)]
pub(super) struct DeploymentListing {
    listed: Option<Listed>,
    /// Whether each reconcile lists the deployments.
    pub(super) every_time: bool,
}

impl DeploymentListing {
    /// Lists the deployments, if the cached list is too old.
    ///
    /// # Errors
    /// If the request fails for another reason than missing permission.
    pub(super) async fn refresh(
        &mut self,
        client: &PoolClient<'_>,
        version: u64,
    ) -> Result<(), PrefectError> {
        if let Some(cached) = self.listed.as_mut()
            && cached.version == version
            && cached.age + 1 < LIST_EVERY
            && !self.every_time
        {
            cached.age += 1;
            return Ok(());
        }
        let namespaces = match client.deployment_namespaces().await {
            Ok(namespaces) => Some(namespaces),
            Err(PrefectError::PoolForbidden { .. }) => None,
            Err(error) => return Err(error),
        };
        self.listed = Some(Listed {
            version,
            age: 0,
            namespaces,
        });
        Ok(())
    }

    /// The namespaces by the cached list; `None` if the credentials may not list them.
    pub(super) fn namespaces(&self) -> Option<&DeploymentNamespaces> {
        self.listed
            .as_ref()
            .and_then(|cached| cached.namespaces.as_ref())
    }
}
