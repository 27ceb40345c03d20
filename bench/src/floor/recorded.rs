//! The writes of the subject for its first resource.
//!
//! Input: a testbed in which the subject is in sync. Output: `RecordedWrites`.
//! Invariants: the copy has no field that the API server sets.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DynamicObject;
use serde_json::Value;

use crate::subject::Subject;
use crate::testbed::Testbed;

/// The writes for one resource, and the names in them.
#[derive(Debug)]
pub struct RecordedWrites {
    /// The Secret.
    pub secret: Value,
    /// The status of the resource.
    pub status: Value,
    /// The UID of the resource.
    uid: String,
    /// The name of the resource.
    name: String,
    /// The namespace.
    namespace: String,
}

impl RecordedWrites {
    /// Reads the Secret and the status of the first resource.
    ///
    /// # Errors
    /// When the API server does not return them.
    pub async fn read(testbed: &Testbed<'_>, subject: &dyn Subject) -> Result<Self> {
        let (client, namespace) = (testbed.client.clone(), testbed.namespace.as_str());
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let mut secret = secrets.get(&subject.secret_name(0)).await?;
        let meta = &mut secret.metadata;
        (meta.uid, meta.resource_version, meta.managed_fields) = (None, None, None);
        meta.creation_timestamp = None;
        let name = subject.resource_name(0);
        let resources: Api<DynamicObject> =
            Api::namespaced_with(client, namespace, &subject.resource_kind());
        let resource = resources.get(&name).await?;
        Ok(Self {
            secret: serde_json::to_value(&secret)?,
            status: resource.data["status"].clone(),
            uid: resource.metadata.uid.context("the resource has no UID")?,
            name,
            namespace: namespace.to_owned(),
        })
    }

    /// A recorded text with the names of another resource.
    #[must_use]
    pub fn renamed(&self, text: &str, uid: &str, name: &str, namespace: &str) -> String {
        let text = text.replace(&self.uid, uid).replace(&self.name, name);
        text.replace(&self.namespace, namespace)
    }
}
