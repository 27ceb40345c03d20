//! Replaces the template of a work pool.
//!
//! Input: a work pool as it was read, the text that replaces its template, and a function that edits
//! the template once more.
//! Output: whether the server has the new text.
//! Invariants: Prefect replaces the whole template without a condition, so an edit that a user
//! makes between our GET and our PATCH is lost. The time between both is bounded: a template that is
//! older when the PATCH has its permit is read again, under the same permit. It changes nothing in a
//! template by itself.

use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde_json::value::RawValue;

use super::client::Client;
use super::error::{PrefectError, Subject};
use super::json_request::JsonRequest;
use super::refused_template::{self, is_template_status};
use super::work_pool::WorkPool;
use crate::upstream::limiter::Priority;

/// An older template is read again before it is replaced.
const MAX_TEMPLATE_AGE: Duration = Duration::from_millis(300);

impl Client {
    /// Replaces the whole template of `pool` by exactly the text `template`. If the request has to
    /// wait for its turn, the pool is read again, and `edit` makes the text from it; none: nothing
    /// is written, and the result is false.
    ///
    /// # Errors
    /// [`PrefectError`], also that of `edit`.
    pub async fn edit_work_pool(
        &self,
        name: &str,
        pool: &mut WorkPool,
        mut template: Box<RawValue>,
        mut edit: impl FnMut(&WorkPool) -> Result<Option<Box<RawValue>>, PrefectError>,
    ) -> Result<bool, PrefectError> {
        #[derive(Serialize)]
        struct TemplatePatch<'a> {
            base_job_template: &'a RawValue,
        }
        let read = self.pool_endpoint(Subject::Pool(name), name)?;
        let write = self.pool_endpoint(Subject::PoolEdit(name), name)?;
        let mut request = JsonRequest::new(Method::PATCH, &write, Priority::Interactive);
        let response = loop {
            let mut permit = request.permit(&self.http).await?;
            if pool.read_at.elapsed() > MAX_TEMPLATE_AGE {
                let response = self.http.fetch_under(&mut permit, &read).await?;
                *pool = self.parse_pool(&read, &response)?;
                let Some(edited) = edit(pool)? else {
                    return Ok(false);
                };
                template = edited;
            }
            let body = TemplatePatch {
                base_job_template: &template,
            };
            if let Some(response) = request.send(&self.http, permit, &body).await? {
                break response;
            }
        };
        match self.http.check(write.subject, &response) {
            Err(PrefectError::RequestRejected { host, status }) if is_template_status(status) => {
                Err(PrefectError::TemplateRefused {
                    host,
                    pool: name.to_owned(),
                    status,
                    detail: refused_template::sentence(response.body(), &template),
                })
            }
            checked => checked.map(|()| true),
        }
    }
}
