//! A block document, as a Prefect server returned it.
//!
//! Input: the answer of the server.
//! Output: the Doppler fields in its data, and the ids of the documents that the data comes from.
//! Invariants: it contains secrets, so it has no `Debug`.

use serde::Deserialize;
use serde_json::Value;

use super::block::{BlockError, BlockFields, fields};

/// The data of a block document.
#[derive(Clone, PartialEq)]
pub struct BlockDocument {
    data: Value,
    ids: Vec<String>,
}

/// The parts of the server's answer that are used.
#[derive(Deserialize)]
pub(super) struct BlockDocumentResponse {
    #[serde(default)]
    id: Value,
    data: Value,
    #[serde(default)]
    block_document_references: Value,
}

impl From<BlockDocumentResponse> for BlockDocument {
    fn from(response: BlockDocumentResponse) -> Self {
        Self {
            ids: document_ids(&response.id, &response.block_document_references),
            data: response.data,
        }
    }
}

impl BlockDocument {
    /// Whether the data comes from the document with this id: the block itself, or a block that it
    /// references.
    #[must_use]
    pub fn includes_document(&self, id: &str) -> bool {
        self.ids.iter().any(|own| own == id)
    }

    /// Project, config and token in the data.
    ///
    /// # Errors
    /// If the data has no known shape.
    pub fn fields(&self, pointer: Option<&str>) -> Result<BlockFields, BlockError> {
        fields(&self.data, pointer)
    }
}

/// The ids of a document and of all documents that it references, at any depth.
fn document_ids(own: &Value, references: &Value) -> Vec<String> {
    let (mut ids, mut pending) = (Vec::new(), Vec::new());
    ids.extend(own.as_str().map(str::to_owned));
    pending.extend(references.as_object());
    while let Some(references) = pending.pop() {
        for document in references.values().map(|found| &found["block_document"]) {
            ids.extend(document["id"].as_str().map(str::to_owned));
            pending.extend(document["block_document_references"].as_object());
        }
    }
    ids
}
