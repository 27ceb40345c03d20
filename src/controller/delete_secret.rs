//! Deletes a Secret that its binding no longer needs, or disowns it if the deletion policy is
//! `Retain`.
//!
//! Input: the name of the Secret.
//! Output: at most one write.
//! Invariants: a Secret of another binding, or of another client, stays as it is.

use super::{object_cache::ReferenceKind, pass::Pass};
use crate::{crd::DeletionPolicy, secret::WriteError};

/// Deletes the Secret, or disowns it.
///
/// # Errors
/// If the Secret changed meanwhile, or the API server rejects the write or does not answer.
pub async fn delete_secret(pass: &Pass<'_>, name: &str) -> Result<(), WriteError> {
    let (context, namespace) = (pass.context, pass.key.namespace());
    let object = pass.object(ReferenceKind::Secret, name);
    if context.objects.get(&object).is_none()
        && let Some(fetched) = context.secrets.get(namespace, name).await?
    {
        // A Secret without the operator's label is not in the cache unless a binding tracks it.
        context.objects.observe(&object, fetched.observed, false);
    }
    let Some(cached) = context.objects.get(&object) else {
        return Ok(());
    };
    if !cached.observed.belongs_to(pass.uid()) {
        return Ok(());
    }
    let secrets = &context.secrets;
    let written = match pass.deletion_policy(name) {
        DeletionPolicy::Delete => secrets
            .delete(namespace, name, &cached.observed)
            .await
            .map(|()| None),
        DeletionPolicy::Retain => secrets
            .disown(namespace, name, &cached.observed, pass.uid())
            .await
            .map(Some),
    };
    context.metrics.count_write("secret", written.is_ok());
    match written {
        Ok(Some(written)) => context.objects.observe(&object, written.observed, true),
        Ok(None) | Err(WriteError::NotFound) => context.objects.evict(&object),
        Err(WriteError::Conflict) => {
            if let Ok(Some(fetched)) = secrets.get(namespace, name).await {
                context.objects.observe(&object, fetched.observed, false);
            }
            return Err(WriteError::Conflict);
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
