//! A block document, as a Prefect server returned it.
//!
//! Input: the answer of the server, in which the number of values is bounded.
//! Output: the Doppler fields in its data, and the ids of the documents that the data comes from.
//! Invariants: it contains secrets, so it has no `Debug`. It is not kept: a poller keeps the
//! [`ResolvedBlock`], which is small whatever the server sent.

use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::block::{BlockError, BlockFields, fields};

/// The maximum number of documents that a block may refer to. Further ones are only polled.
const MAX_DOCUMENTS: usize = 64;
/// The longest id of a document, in bytes. Prefect's are UUIDs.
const MAX_ID_BYTES: usize = 64;

/// A block document, as text.
#[derive(Deserialize)]
pub struct BlockDocument {
    #[serde(default)]
    id: Option<Box<RawValue>>,
    data: Box<RawValue>,
    #[serde(default, rename = "block_document_references")]
    references: Option<Box<RawValue>>,
}

/// What a block means for the bindings that read it.
#[derive(Clone)]
pub struct ResolvedBlock {
    /// Project, config and token in the data.
    pub fields: Result<BlockFields, BlockError>,
    document_ids: Vec<String>,
}

impl BlockDocument {
    /// Project, config and token in the data.
    ///
    /// # Errors
    /// If the data has no known shape.
    pub fn fields(&self, pointer: Option<&str>) -> Result<BlockFields, BlockError> {
        fields(&decode(Some(&self.data)), pointer)
    }

    /// What it means for the bindings that read it with this pointer.
    #[must_use]
    pub fn resolve(&self, pointer: Option<&str>) -> ResolvedBlock {
        let id = decode(self.id.as_deref());
        let references = decode(self.references.as_deref());
        ResolvedBlock {
            fields: self.fields(pointer),
            document_ids: document_ids(&id, &references),
        }
    }
}

impl ResolvedBlock {
    /// Whether the data comes from the document with this id: the block itself, or a block that it
    /// references.
    #[must_use]
    pub fn includes_document(&self, id: &str) -> bool {
        self.document_ids.iter().any(|own| own == id)
    }
}

impl PartialEq for ResolvedBlock {
    fn eq(&self, other: &Self) -> bool {
        fn texts(fields: &BlockFields) -> [Option<&str>; 4] {
            [
                fields.project.as_deref(),
                fields.config.as_deref(),
                fields
                    .access_token
                    .as_ref()
                    .map(ExposeSecret::expose_secret),
                fields.identity.as_deref(),
            ]
        }
        let same_fields = match (&self.fields, &other.fields) {
            (Ok(one), Ok(other)) => texts(one) == texts(other),
            (Err(one), Err(other)) => one == other,
            _ => false,
        };
        same_fields && self.document_ids == other.document_ids
    }
}

/// A part of the document. The caller has bounded the number of values in it.
fn decode(text: Option<&RawValue>) -> Value {
    text.and_then(|text| serde_json::from_str(text.get()).ok())
        .unwrap_or_default()
}

/// The ids of a document and of the documents that it references, at any depth.
fn document_ids(own: &Value, references: &Value) -> Vec<String> {
    let (mut ids, mut pending) = (Vec::new(), Vec::new());
    let id = |value: &Value| {
        let id = value.as_str().filter(|id| id.len() <= MAX_ID_BYTES);
        id.map(str::to_owned)
    };
    ids.extend(id(own));
    pending.extend(references.as_object());
    while let Some(references) = pending.pop() {
        for document in references.values().map(|found| &found["block_document"]) {
            if ids.len() == MAX_DOCUMENTS {
                return ids;
            }
            ids.extend(id(&document["id"]));
            pending.extend(document["block_document_references"].as_object());
        }
    }
    ids
}
