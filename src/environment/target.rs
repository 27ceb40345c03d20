//! The binding whose environment is asked for.
//!
//! Input: a file, or the name of a binding in the cluster.
//! Output: the binding as it is written.
//! Invariants: a file has exactly one binding; the cluster is read with the permissions of the user.

use std::{path::Path, time::Duration};

use kube::{
    Api,
    api::{ApiResource, DynamicObject},
};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    check::{CheckContext, CheckError, add_servers, parse_documents, read_file},
    crd::{BindingRef, DopplerPrefectBinding},
};

/// Time limit of the request to the API server.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Why there is no binding.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] CheckError),
    /// A document in the file is not a binding.
    #[error("{file}: {why}")]
    Document {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// The file has none or several bindings.
    #[error(
        "{file} contains {count} bindings: write a file with one, or name one that is in the cluster"
    )]
    Count {
        /// The file.
        file: String,
        /// How many bindings it has.
        count: usize,
    },
    /// The binding does not exist.
    #[error(
        "there is no DopplerPrefectBinding {0:?}: check the name and --namespace; a file has a / in its name or ends in .yaml, .yml or .json"
    )]
    Missing(BindingRef),
    /// The API server refused the request.
    #[error(
        "the API server answered {code} for DopplerPrefectBinding {binding:?}: check that your account has permission to get it"
    )]
    Refused {
        /// The binding.
        binding: BindingRef,
        /// The status code.
        code: u16,
    },
    /// The API server did not answer.
    #[error("the API server did not answer: check your kubeconfig")]
    Unreachable,
}

/// Reads the binding.
///
/// # Errors
/// If it cannot be read.
pub async fn read(context: &CheckContext, target: &str) -> Result<Value, TargetError> {
    if !is_file(target) {
        return get(context, target).await;
    }
    let text = read_file(Path::new(target))?;
    // A server that is not valid is not known, and the binding that names it says so.
    let _ = add_servers(&context.cluster_servers, &text);
    let mut documents = parse_documents(&text);
    let count = documents.len();
    let file = || target.to_owned();
    match documents.pop() {
        Some(document) if count == 1 => {
            document.map_err(|why| TargetError::Document { file: file(), why })
        }
        _ => Err(TargetError::Count {
            file: file(),
            count,
        }),
    }
}

/// Whether the target is a file. The name of a binding never looks like one.
fn is_file(target: &str) -> bool {
    let extension = Path::new(target).extension();
    let is_known = |extension| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| extension == *known)
    };
    target == "-" || target.contains('/') || extension.is_some_and(is_known)
}

async fn get(context: &CheckContext, name: &str) -> Result<Value, TargetError> {
    let resource = ApiResource::erase::<DopplerPrefectBinding>(&());
    let client = context.client.clone();
    let api: Api<DynamicObject> = Api::namespaced_with(client, &context.namespace, &resource);
    let key = || BindingRef::new(&context.namespace, name);
    match timeout(TIMEOUT, api.get(name)).await {
        Ok(Ok(binding)) => serde_json::to_value(binding).map_err(|_| TargetError::Unreachable),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(TargetError::Missing(key())),
        Ok(Err(kube::Error::Api(status))) => Err(TargetError::Refused {
            binding: key(),
            code: status.code,
        }),
        Ok(Err(_)) | Err(_) => Err(TargetError::Unreachable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_name() {
        for file in ["-", "a.yaml", "a.yml", "a.json", "./a", "dir/a", "/a"] {
            assert!(is_file(file), "{file}");
        }
        for name in ["a", "my-project-dev", "a.b", "yaml"] {
            assert!(!is_file(name), "{name}");
        }
    }
}
