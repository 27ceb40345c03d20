//! Blocks with the Doppler config and token, in the formats that users have.
//!
//! Input: project, config and token, in one of the formats.
//! Output: block types, schemas and documents on the server, and the document's id.
//! Invariants: the token is never printed.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::api::{PrefectApi, text};
use crate::wait;

/// How long a server that has started may go on with the registration of its block types.
const REGISTRATION: Duration = Duration::from_secs(30);

/// A block document to write.
pub enum Block {
    /// A block of Prefect's type `secret` with this value.
    Secret(Value),
    /// A block of a class with three fields, as `class DopplerConfig(Block)` registers it.
    Class {
        /// The slug of its type.
        slug: String,
        /// Its fields; `access_token` is a `SecretStr`.
        fields: Value,
    },
    /// A block of a class whose field `cfg` refers to a `secret` block.
    Parent {
        /// The slug of its type.
        slug: String,
        /// The name of the `secret` block.
        secret: String,
    },
}

impl Block {
    /// `Secret(value={…}).save()`.
    #[must_use]
    pub fn object(project: &str, config: &str, token: &str) -> Self {
        Self::Secret(fields(project, config, token))
    }

    /// `Secret(value='{…}').save()`.
    #[must_use]
    pub fn json_string(project: &str, config: &str, token: &str) -> Self {
        Self::Secret(fields(project, config, token).to_string().into())
    }

    /// The value that the JSON tab of the newer web UI saves.
    #[must_use]
    pub fn ui_wrapper(project: &str, config: &str, token: &str) -> Self {
        let text = fields(project, config, token).to_string();
        Self::Secret(json!({"__prefect_kind": "json", "value": text}))
    }

    /// A block of a user's class.
    #[must_use]
    pub fn class(slug: &str, project: &str, config: &str, token: &str) -> Self {
        let fields = fields(project, config, token);
        let slug = slug.to_owned();
        Self::Class { slug, fields }
    }

    /// A block of a user's class that refers to a `secret` block, which must exist.
    #[must_use]
    pub fn parent(slug: &str, secret: &str) -> Self {
        let (slug, secret) = (slug.to_owned(), secret.to_owned());
        Self::Parent { slug, secret }
    }

    /// The slug of its type.
    #[must_use]
    pub fn slug(&self) -> &str {
        match self {
            Self::Secret(_) => "secret",
            Self::Class { slug, .. } | Self::Parent { slug, .. } => slug,
        }
    }
}

fn fields(project: &str, config: &str, token: &str) -> Value {
    json!({"project": project, "config": config, "access_token": token})
}

impl PrefectApi {
    /// Creates the block document `name` or replaces its data. Returns its id.
    ///
    /// # Errors
    /// If the server rejects a request.
    pub async fn put_block(&self, name: &str, block: &Block) -> Result<String> {
        // For some seconds after its start, a server replaces the schemas of its own block types.
        // PostgreSQL then refuses a document that names the schema of before.
        let put = async || match self.try_put_block(name, block).await {
            Err(error) if format!("{error:#}").contains("409 Conflict") => Err(error),
            ended => Ok(ended),
        };
        wait::until(REGISTRATION, "the server's block types", put).await?
    }

    async fn try_put_block(&self, name: &str, block: &Block) -> Result<String> {
        let (type_id, schema_id) = self.block_schema(block).await?;
        let data = match block {
            Block::Secret(value) => json!({"value": value}),
            Block::Class { fields, .. } => fields.clone(),
            Block::Parent { secret, .. } => {
                let document = self.block("secret", secret).await?;
                let document = document.context("the secret block does not exist")?;
                json!({"cfg": {"$ref": {"block_document_id": document["id"]}}})
            }
        };
        if let Some(document) = self.block(block.slug(), name).await? {
            let id = text(&document, "id")?;
            let body =
                json!({"data": data, "merge_existing_data": false, "block_schema_id": schema_id});
            self.patch(&format!("/block_documents/{id}"), &body).await?;
            return Ok(id);
        }
        let body = json!({"name": name, "data": data, "block_type_id": type_id, "block_schema_id": schema_id});
        text(&self.post("/block_documents/", &body).await?, "id")
    }

    /// The block document as the API returns it, including secrets.
    ///
    /// # Errors
    /// If the server rejects a request.
    pub async fn block(&self, slug: &str, name: &str) -> Result<Option<Value>> {
        let path =
            format!("/block_types/slug/{slug}/block_documents/name/{name}?include_secrets=true");
        self.find(&path).await
    }

    /// Deletes the block document. A missing document is not an error.
    ///
    /// # Errors
    /// If the server rejects a request.
    pub async fn delete_block(&self, slug: &str, name: &str) -> Result<()> {
        let Some(document) = self.block(slug, name).await? else {
            return Ok(());
        };
        let id = text(&document, "id")?;
        self.delete(&format!("/block_documents/{id}")).await
    }

    /// The ids of the block's type and schema. Both are registered if they are new.
    async fn block_schema(&self, block: &Block) -> Result<(String, String)> {
        let slug = block.slug();
        let path = format!("/block_types/slug/{slug}");
        let block_type = if let Some(found) = self.find(&path).await? {
            found
        } else {
            let body = json!({"name": slug, "slug": slug});
            self.post("/block_types/", &body).await?
        };
        let type_id = text(&block_type, "id")?;
        let schema = match block {
            Block::Secret(_) => {
                let latest = self.latest_schema(&type_id).await?;
                latest.context("the server has no schema of type secret")?
            }
            Block::Class { .. } => self.register(&type_id, class_schema(slug)).await?,
            Block::Parent { .. } => {
                let secret = self.get("/block_types/slug/secret").await?;
                let secret = self.latest_schema(&text(&secret, "id")?).await?;
                let secret = secret.context("the server has no schema of type secret")?;
                self.register(&type_id, parent_schema(slug, &secret))
                    .await?
            }
        };
        Ok((type_id, text(&schema, "id")?))
    }

    async fn latest_schema(&self, type_id: &str) -> Result<Option<Value>> {
        let filter = json!({"block_schemas": {"block_type_id": {"any_": [type_id]}}, "limit": 1});
        let found = self.post("/block_schemas/filter", &filter).await?;
        Ok(found.get(0).cloned())
    }

    /// For a known schema, the server returns the existing one.
    async fn register(&self, type_id: &str, fields: Value) -> Result<Value> {
        let body = json!({"block_type_id": type_id, "fields": fields, "capabilities": []});
        self.post("/block_schemas/", &body).await
    }
}

fn class_schema(slug: &str) -> Value {
    json!({
        "title": slug, "type": "object", "block_type_slug": slug, "block_schema_references": {},
        "properties": {
            "project": {"title": "Project", "type": "string"},
            "config": {"title": "Config", "type": "string"},
            "access_token": {"title": "Access Token", "type": "string", "format": "password", "writeOnly": true},
        },
        "required": ["project", "config", "access_token"],
        "secret_fields": ["access_token"],
    })
}

fn parent_schema(slug: &str, secret: &Value) -> Value {
    let mut definition = secret["fields"].clone();
    definition["block_schema_references"] = json!({});
    json!({
        "title": slug, "type": "object", "block_type_slug": slug,
        "block_schema_references": {"cfg": {
            "block_type_slug": "secret",
            "block_schema_checksum": secret["checksum"],
        }},
        "properties": {"cfg": {"$ref": "#/definitions/Secret"}},
        "definitions": {"Secret": definition},
        "required": ["cfg"],
        "secret_fields": ["cfg.value"],
    })
}
