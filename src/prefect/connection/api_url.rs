//! The URL of the Prefect API that a `server` field names.
//!
//! Input: the `server` field, and the namespace of its binding or object.
//! Output: the URL of the API, or a [`ServerError`].
//! Invariants: pure. It resolves no name and checks no allow list.

use url::Url;

use super::server_error::{CLOUD_API_URL, ServerError};
use crate::{
    crd::ServerSpec,
    outbound::{HostRefused, in_cluster_url},
};

/// Host of Prefect Cloud's API.
const CLOUD_API_HOST: &str = "api.prefect.cloud";
/// The host of Prefect Cloud's web UI.
const CLOUD_UI_HOST: &str = "app.prefect.cloud";

/// The port of a server in the cluster, as prefect-operator and Prefect's charts set it.
const DEFAULT_PORT: u16 = 4200;

/// The URL of the API that a `server` field names, without a slash at its end.
///
/// # Errors
/// If no field names the server, or if a field cannot be part of a URL.
pub fn api_url_of(spec: &ServerSpec, namespace: &str) -> Result<Url, ServerError> {
    if let Some(name) = &spec.name {
        let namespace = spec.namespace.as_deref().unwrap_or(namespace);
        let mut url = in_cluster_url(name, namespace, DEFAULT_PORT).map_err(|refused| {
            let field = match refused {
                HostRefused::InvalidLabel { field: what } => what,
                _ => "name",
            };
            ServerError::InvalidUrlPart { field }
        })?;
        url.set_path("/api");
        return Ok(url);
    }
    let workspace = match (&spec.account_id, &spec.workspace_id) {
        (Some(account), Some(workspace)) => Some(format!(
            "accounts/{}/workspaces/{}",
            url_part("accountId", account)?,
            url_part("workspaceId", workspace)?
        )),
        _ => None,
    };
    let base = match (&spec.remote_api_url, &workspace) {
        (Some(url), _) => url,
        (None, Some(_)) => CLOUD_API_URL,
        (None, None) => return Err(ServerError::MissingAddress),
    };
    let mut url = Url::parse(base.trim()).map_err(|_| ServerError::InvalidUrl)?;
    reject_cloud_page(&url)?;
    if url.cannot_be_a_base()
        || !url.has_host()
        || !matches!(url.scheme(), "http" | "https")
        || url.query().is_some()
    {
        return Err(ServerError::InvalidUrl);
    }
    url.set_fragment(None);
    let mut path = url.path().trim_end_matches('/').to_owned();
    if !path.ends_with("/api") && !is_workspace(&path) {
        path.push_str("/api");
    }
    if let Some(workspace) = workspace.filter(|_| !is_workspace(&path)) {
        path = format!("{path}/{workspace}");
    }
    url.set_path(&path);
    Ok(url)
}

/// Whether a path is already that of a Cloud workspace: `…/api/accounts/A/workspaces/W`.
fn is_workspace(path: &str) -> bool {
    let parts: Vec<&str> = path.rsplit('/').take(5).collect();
    matches!(parts[..], [_, "workspaces", _, "accounts", "api"])
}

/// Users copy the address of their workspace's page:
/// `https://app.prefect.cloud/account/A/workspace/W/dashboard`.
fn reject_cloud_page(url: &Url) -> Result<(), ServerError> {
    let id_after = |names: [&str; 2]| {
        // The UI had its path behind a `#` once.
        let fragment = url.fragment().unwrap_or_default();
        let mut segments = url.path().split('/').chain(fragment.split('/'));
        segments.find(|segment| names.contains(segment))?;
        let id = segments.next()?;
        url_part("", id).ok().map(str::to_owned)
    };
    let account = id_after(["account", "accounts"]);
    let workspace = id_after(["workspace", "workspaces"]);
    let has_page_path = url.path().contains("/account/") && url.path().contains("/workspace/");
    let host = url.host_str().map(|host| host.trim_end_matches('.'));
    if host != Some(CLOUD_UI_HOST) && !(has_page_path && host == Some(CLOUD_API_HOST)) {
        return Ok(());
    }
    Err(match (account, workspace) {
        (Some(account), Some(workspace)) => ServerError::CloudPage { account, workspace },
        _ => ServerError::CloudPageWithoutIds,
    })
}

fn url_part<'a>(field: &'static str, text: &'a str) -> Result<&'a str, ServerError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !text.is_empty() && text.bytes().all(plain) {
        Ok(text)
    } else {
        Err(ServerError::InvalidUrlPart { field })
    }
}

/// Whether two URLs name the same API. A Service may have its short or its full DNS name.
#[must_use]
pub fn same_api(one: &Url, other: &Url) -> bool {
    canonical(one) == canonical(other)
}

/// A text that is equal for URLs of the same API.
#[must_use]
pub fn canonical_api(url: &Url) -> String {
    let (scheme, host, port, path) = canonical(url);
    let (host, port) = (host.unwrap_or_default(), port.unwrap_or_default());
    format!("{scheme}://{host}:{port}{path}")
}

fn canonical(url: &Url) -> (&str, Option<&str>, Option<u16>, &str) {
    let host = url.host_str().map(|host| {
        let host = host.trim_end_matches('.');
        let host = host.strip_suffix(".cluster.local").unwrap_or(host);
        host.strip_suffix(".svc").unwrap_or(host)
    });
    let path = url.path().trim_end_matches('/');
    (url.scheme(), host, url.port_or_known_default(), path)
}

/// The `server` field that names the API at this URL, without credentials: the inverse of
/// [`api_url_of`]. So a URL that was recorded passes the same checks as one in a spec.
#[must_use]
pub fn server_at(url: &Url) -> ServerSpec {
    let host = url.host_str().unwrap_or_default();
    let labels: Vec<&str> = host.split('.').collect();
    if let [name, namespace, "svc"] = labels[..] {
        let in_cluster = ServerSpec {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ServerSpec::default()
        };
        if api_url_of(&in_cluster, namespace).is_ok_and(|built| built == *url) {
            return in_cluster;
        }
    }
    ServerSpec {
        remote_api_url: Some(url.to_string()),
        ..ServerSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_server_at_a_url_and_nothing_else() {
        let in_cluster = "http://prefect-server.prefect.svc:4200/api";
        let cloud = "https://api.prefect.cloud/api/accounts/a/workspaces/w";
        for (url, by_name) in [
            (in_cluster, true),
            ("http://x.prefect.svc:80/api", false),
            ("https://prefect-server.prefect.svc:4200/api", false),
            (
                "http://user:pass@prefect-server.prefect.svc:4200/api",
                false,
            ),
            ("http://a.b.prefect.svc:4200/api", false),
            (cloud, false),
        ] {
            let url: Url = url.parse().unwrap();
            let server = server_at(&url);
            assert_eq!(server.name.is_some(), by_name, "{url}");
            assert_eq!(api_url_of(&server, "flows").unwrap(), url);
        }
    }
}
