//! Builds URLs of Services in this cluster from a name and a namespace.
//!
//! Input: name, namespace and port of a Service.
//! Output: its URL, or [`HostRefused::InvalidLabel`].
//! Invariants: the URL always points into the cluster.

use url::Url;

use super::HostRefused;

/// Returns `http://NAME.NAMESPACE.svc:PORT/`. [`super::AllowedServices`] decides about it, not [`super::AllowedHosts`]: name and
/// namespace must be DNS labels, so they cannot contain another host, path or user name.
///
/// # Errors
/// [`HostRefused::InvalidLabel`] if name or namespace is not a DNS label.
pub fn in_cluster_url(name: &str, namespace: &str, port: u16) -> Result<Url, HostRefused> {
    for (field, text) in [("name", name), ("namespace", namespace)] {
        if !is_label(text) {
            return Err(HostRefused::InvalidLabel { field });
        }
    }
    Url::parse(&format!("http://{name}.{namespace}.svc:{port}/"))
        .map_err(|_| HostRefused::InvalidLabel { field: "name" })
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_the_url_of_a_service() {
        let url = in_cluster_url("prefect-server", "prefect", 4200).unwrap();
        assert_eq!(url.as_str(), "http://prefect-server.prefect.svc:4200/");
    }

    #[test]
    fn refuses_names_that_would_leave_the_cluster() {
        for (name, namespace) in [
            ("evil.example.com/", "x"),
            ("a", "b.example.com#"),
            ("", "x"),
            ("a", ""),
            ("user@host", "x"),
            ("a", "UPPER"),
            ("-a", "x"),
            ("a", "x-"),
        ] {
            assert!(
                in_cluster_url(name, namespace, 4200).is_err(),
                "{name}.{namespace}"
            );
        }
    }
}
