//! The API of one Prefect server, as far as the operator uses it.
//!
//! Input: names of blocks and work pools.
//! Output: a block document, a work pool with the text of its template unchanged, and the job
//! variables of its deployments; or a [`PrefectError`].
//! Invariants: it caches no answer. What it writes is in `template_edit.rs`.

use std::{collections::BTreeSet, time::Duration};

use reqwest::Method;
use serde_json::json;

use super::{
    block_document::BlockDocument,
    connection::Connection,
    error::{PrefectError, Subject},
    http_client::{ApiResponse, Endpoint, HttpClient},
    page::{PAGE_SIZE, Page},
    version::ServerVersion,
    work_pool::{DeploymentOverrides, WorkPool},
};
use crate::{
    printable::has_control,
    upstream::limiter::{Priority, RateLimiter, ReadRequest},
};

/// Bounds on answers, in bytes.
const VERSION_LIMIT: usize = 1 << 10;
const BLOCK_LIMIT: usize = 1 << 20;
const POOL_LIMIT: usize = 4 << 20;
pub(super) const DEPLOYMENTS_LIMIT: usize = 8 << 20;
/// The bound on the JSON values of a block or a template. The default template of a kubernetes pool
/// has about 150.
const MAX_VALUES: usize = 20_000;
/// Pages of deployments that are read.
const MAX_PAGES: usize = 25;

/// The client of one server.
pub struct Client {
    pub(super) http: HttpClient,
}

impl Client {
    /// A client whose requests take at most `timeout` each, once `limiter` permits them. The caller
    /// keeps it, because it owns the TCP connections and the CSRF token.
    ///
    /// # Errors
    /// If the certificate authorities cannot be used.
    pub fn new(
        connection: &Connection,
        timeout: Duration,
        limiter: RateLimiter<PrefectError>,
    ) -> Result<Self, PrefectError> {
        let http = HttpClient::new(connection, timeout, limiter)?;
        Ok(Self { http })
    }

    /// Reads a block document with its secrets.
    ///
    /// # Errors
    /// [`PrefectError`].
    pub async fn block(
        &self,
        slug: &str,
        name: &str,
        read_request: &ReadRequest,
    ) -> Result<BlockDocument, PrefectError> {
        if !is_segment(slug) || !is_segment(name) {
            return Err(PrefectError::BlockMissing {
                host: self.http.host(),
                slug: slug.to_owned(),
                name: name.to_owned(),
            });
        }
        let path = ["block_types", "slug", slug, "block_documents", "name", name];
        let mut endpoint = Endpoint {
            subject: Subject::Block { slug, name },
            url: self.http.url(&path)?,
            content: "a block's data",
            max_bytes: BLOCK_LIMIT,
            max_values: Some(MAX_VALUES),
        };
        endpoint.url.set_query(Some("include_secrets=true"));
        self.http.get(&endpoint, read_request).await
    }

    /// Reads the version of the server. None if it says something else.
    ///
    /// # Errors
    /// [`PrefectError`].
    pub async fn version(&self) -> Result<Option<ServerVersion>, PrefectError> {
        let endpoint = Endpoint {
            subject: Subject::Version,
            url: self.http.url(&["admin", "version"])?,
            content: "a version",
            max_bytes: VERSION_LIMIT,
            max_values: Some(1),
        };
        let read_request = ReadRequest::with_priority(Priority::Background);
        let version: String = self.http.get(&endpoint, &read_request).await?;
        Ok(ServerVersion::parse(&version))
    }

    /// Reads a work pool.
    ///
    /// # Errors
    /// [`PrefectError`].
    pub async fn work_pool(
        &self,
        name: &str,
        priority: Priority,
    ) -> Result<WorkPool, PrefectError> {
        let endpoint = self.pool_endpoint(Subject::Pool(name), name)?;
        let read_request = ReadRequest::with_priority(priority);
        let response = self.http.fetch(&endpoint, &read_request).await?;
        self.parse_pool(&endpoint, &response)
    }

    /// Lists the deployments of a work pool that set one of these variables. Of very many
    /// deployments it reads only the first by name, and the answer says so. Without variables it
    /// sends no request.
    ///
    /// # Errors
    /// [`PrefectError`].
    pub async fn deployment_overrides(
        &self,
        pool: &str,
        variables: &BTreeSet<String>,
        priority: Priority,
    ) -> Result<DeploymentOverrides, PrefectError> {
        if !is_segment(pool) {
            return Err(self.pool_missing(pool));
        }
        let mut found = DeploymentOverrides::default();
        if variables.is_empty() {
            return Ok(found);
        }
        let endpoint = Endpoint {
            subject: Subject::Deployments(pool),
            url: self.http.url(&["deployments", "filter"])?,
            content: "a list of deployments",
            max_bytes: DEPLOYMENTS_LIMIT,
            max_values: None,
        };
        for page in 0..MAX_PAGES {
            let filter = json!({
                "limit": PAGE_SIZE,
                "offset": page * PAGE_SIZE,
                "sort": "NAME_ASC",
                "work_pools": {"name": {"any_": [pool]}},
            });
            let response = self
                .http
                .send_json(Method::POST, &endpoint, &filter, priority)
                .await?;
            let Page(deployments) = self.http.parse(&endpoint, &response)?;
            let is_last = deployments.len() < PAGE_SIZE;
            for deployment in &deployments {
                found.add(deployment, variables);
            }
            if is_last {
                return Ok(found);
            }
        }
        found.truncated_at = Some(MAX_PAGES * PAGE_SIZE);
        Ok(found)
    }

    fn pool_missing(&self, pool: &str) -> PrefectError {
        PrefectError::PoolMissing {
            host: self.http.host(),
            pool: pool.to_owned(),
        }
    }

    /// The pool that an answer holds.
    pub(super) fn parse_pool(
        &self,
        endpoint: &Endpoint<'_>,
        response: &ApiResponse,
    ) -> Result<WorkPool, PrefectError> {
        let mut pool: WorkPool = self.http.parse(endpoint, response)?;
        pool.read_at = response.sent_at;
        Ok(pool)
    }

    /// Where a work pool is read and written.
    pub(super) fn pool_endpoint<'a>(
        &self,
        subject: Subject<'a>,
        name: &str,
    ) -> Result<Endpoint<'a>, PrefectError> {
        if !is_segment(name) {
            return Err(self.pool_missing(name));
        }
        Ok(Endpoint {
            subject,
            url: self.http.url(&["work_pools", name])?,
            content: "a work pool's template",
            max_bytes: POOL_LIMIT,
            max_values: Some(MAX_VALUES),
        })
    }
}

/// Whether a name can be one segment of a path. Prefect decodes `%2F` before it matches the path, so
/// it cannot find a name with a slash. A server on `PostgreSQL` answers 503 to a NUL, and the URL
/// library drops tabs and line breaks, which gives another name.
fn is_segment(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains('/') && !has_control(name)
}

#[cfg(test)]
mod tests;
