use super::*;
use crate::control_plane::ControlPlane;

#[test]
fn separates_stdout_and_stderr() {
    for (helm, expected) in [(Helm::V3, "v3."), (Helm::V4, "v4.")] {
        let version = helm
            .run(&["version", "--template", "{{.Version}}"], None)
            .unwrap();
        assert!(
            version.clone().success().unwrap().starts_with(expected),
            "{version:?}"
        );
        assert_eq!(version.stderr, "");
    }
    let failed = helm(&["template", "/nowhere"], None).unwrap();
    assert_ne!(failed.code, 0);
    assert!(
        failed
            .success()
            .unwrap_err()
            .to_string()
            .contains("/nowhere")
    );
}

#[tokio::test]
async fn installs_and_uninstalls_on_the_control_plane() -> Result<()> {
    let plane = ControlPlane::shared()?;
    let chart = tempfile::tempdir()?;
    std::fs::create_dir(chart.path().join("templates"))?;
    std::fs::write(
        chart.path().join("Chart.yaml"),
        "{apiVersion: v2, name: tiny, version: 0.1.0}",
    )?;
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: from-helm, namespace: tiny}}";
    std::fs::write(chart.path().join("templates/map.yaml"), map)?;
    let chart = chart.path().to_str().context("a path that is not UTF-8")?;
    let kubeconfig = plane.admin_kubeconfig_path();

    let install = [
        "install",
        "tiny",
        chart,
        "--namespace",
        "tiny",
        "--create-namespace",
    ];
    helm_async(&install, Some(&kubeconfig)).await?.success()?;
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
        kube::Api::namespaced(plane.admin_client()?, "tiny");
    maps.get("from-helm").await?;

    let uninstall = ["uninstall", "tiny", "--namespace", "tiny"];
    helm_async(&uninstall, Some(&kubeconfig)).await?.success()?;
    assert!(maps.get_opt("from-helm").await?.is_none());
    Ok(())
}
