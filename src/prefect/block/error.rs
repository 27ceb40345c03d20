//! Why the data of a block does not give the fields, and what the user can do about it.
//!
//! Input: the failures that the search finds.
//! Output: [`BlockError`], with its reason and its message.
//! Invariants: the message never contains a value of the block. Pointers are cut to a short line.

use super::field::Field;
use crate::{failure::Failure, printable::MAX_NAME_BYTES, reason::Reason};

/// Why the data of a block does not give the fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Prefect masked the values.
    #[error(
        "Prefect masks the values of the block (********): add the permission \"View secret block data\" to the API key's role, or save the block again if it was saved with masked values"
    )]
    Masked,
    /// No object in the data has any of the fields.
    #[error(
        "no object in the block has the fields project, config and access_token: store a JSON object with these three fields, or set spec.prefect.block.pointer to the object that has them"
    )]
    NoFields,
    /// The data is a text that is not a JSON object.
    #[error(
        "the block contains a text that is not a JSON object: store an object with project, config and access_token (check its quotes and commas)"
    )]
    NotJson,
    /// Several objects have the fields.
    #[error("several objects in the block have the fields ({}): set spec.prefect.block.pointer to the right one", .pointers.join(", "))]
    Ambiguous {
        /// Their pointers.
        pointers: Vec<String>,
    },
    /// The pointer matches nothing.
    #[error(
        "spec.prefect.block.pointer matches nothing in the block: correct it, or remove it so that the operator finds the object by its fields"
    )]
    PointerNotFound,
    /// The value at the pointer has none of the fields.
    #[error(
        "the value at spec.prefect.block.pointer is not an object with project, config and access_token: correct the pointer or the block"
    )]
    PointerNoFields,
    /// A field is not a text.
    #[error("{} in the block must be a string: correct the block, or set {} in the binding", .field, .field.spec_path())]
    WrongType {
        /// The field.
        field: Field,
    },
    /// A field is longer than any of Doppler's.
    #[error("{} in the block is too long: correct the block, or set {} in the binding", .field, .field.spec_path())]
    FieldTooLong {
        /// The field.
        field: Field,
    },
    /// A field is too long for a name, or has characters that no name has.
    #[error("{} in the block is longer than {MAX_NAME_BYTES} bytes, or has a control character or a line break: correct the block, or set {} in the binding", .field, .field.spec_path())]
    NotAName {
        /// The field.
        field: Field,
    },
    /// The data is too deep or has too many values to be searched.
    #[error(
        "the block is too large to search for the fields: set spec.prefect.block.pointer to the object with project, config and access_token"
    )]
    TooLarge,
    /// The block has an identity and no token, and the binding names no service account for it.
    #[error(
        "the block has an identity in place of access_token: name the service account that proves it in spec.doppler.identity.serviceAccountRef, or store access_token in the block"
    )]
    IdentityWithoutAccount,
    /// Fields are not set, or empty.
    #[error("{} missing or empty: correct the block, or set {} in the binding", fields_with_verb(.missing), list(.missing, |field| field.spec_path()))]
    Incomplete {
        /// The fields.
        missing: Vec<Field>,
    },
}

impl BlockError {
    /// The reason for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Masked => Reason::BlockMasked,
            Self::IdentityWithoutAccount | Self::Incomplete { .. } => Reason::BlockIncomplete,
            Self::NoFields
            | Self::NotJson
            | Self::Ambiguous { .. }
            | Self::PointerNotFound
            | Self::PointerNoFields
            | Self::WrongType { .. }
            | Self::FieldTooLong { .. }
            | Self::NotAName { .. }
            | Self::TooLarge => Reason::BlockInvalid,
        }
    }
}

impl From<BlockError> for Failure {
    fn from(error: BlockError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}

fn list(fields: &[Field], name: impl Fn(&Field) -> &'static str) -> String {
    fields.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn fields_with_verb(fields: &[Field]) -> String {
    let verb = if fields.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", list(fields, |field| field.key()))
}
