//! The permissions of the chart's service account, as the API server reports them.
//!
//! Input: sets of values.
//! Output: access reviews for what the operator needs and what it must not do.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use serde_json::json;
use testkit::grant::{Grant, grant, grant_from_chart};
use testkit::{kubernetes, wait};

use super::template;
use crate::world::plane;

/// The API server applies a new role once its own watch has delivered it.
const SOON: Duration = Duration::from_secs(30);

/// A client from the kubeconfig, as the operator creates it.
async fn client(grant: &Grant) -> Client {
    let file = Kubeconfig::read_from(&grant.kubeconfig).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .unwrap();
    config.proxy_url = None;
    Client::try_from(config).unwrap()
}

/// Asks the API server with an access review.
async fn is_allowed(client: &Client, verb: &str, what: &str, namespace: Option<&str>) -> bool {
    let (resource, name) = what.split_once(':').unwrap_or((what, ""));
    let (group, resource) = resource.split_once('/').unwrap_or(("", resource));
    let (resource, subresource) = resource.split_once('.').unwrap_or((resource, ""));
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: some(group),
                resource: some(resource),
                subresource: some(subresource),
                name: some(name),
                verb: Some(verb.to_owned()),
                namespace: namespace.map(ToOwned::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await;
    answer.unwrap().status.unwrap().allowed
}

const BINDINGS: &str = "doppler-prefect.dev/dopplerprefectbindings";

/// What the operator does in each namespace that it watches.
const NEEDED: [(&str, &str); 19] = [
    ("list", BINDINGS),
    ("watch", BINDINGS),
    ("get", BINDINGS),
    ("patch", BINDINGS),
    ("patch", "doppler-prefect.dev/dopplerprefectbindings.status"),
    ("get", "secrets"),
    ("list", "secrets"),
    ("watch", "secrets"),
    ("create", "secrets"),
    ("patch", "secrets"),
    ("delete", "secrets"),
    ("get", "configmaps"),
    ("list", "configmaps"),
    ("watch", "configmaps"),
    ("get", "services"),
    ("create", "events.k8s.io/events"),
    ("patch", "events.k8s.io/events"),
    ("list", "prefect.io/prefectworkpools"),
    ("watch", "prefect.io/prefectworkpools"),
];

/// What it must not do, even there.
const NEVER: [(&str, &str); 30] = [
    ("create", BINDINGS),
    ("delete", BINDINGS),
    ("update", BINDINGS),
    ("deletecollection", BINDINGS),
    ("update", "secrets"),
    ("deletecollection", "secrets"),
    ("create", "configmaps"),
    ("patch", "configmaps"),
    ("delete", "configmaps"),
    ("get", "pods"),
    ("list", "pods"),
    ("watch", "pods"),
    ("create", "pods"),
    ("create", "pods.exec"),
    ("create", "batch/jobs"),
    ("get", "apps/deployments"),
    ("patch", "apps/deployments"),
    ("patch", "prefect.io/prefectworkpools"),
    ("update", "prefect.io/prefectworkpools"),
    ("create", "serviceaccounts.token"),
    ("impersonate", "serviceaccounts"),
    ("create", "rbac.authorization.k8s.io/rolebindings"),
    ("escalate", "rbac.authorization.k8s.io/roles"),
    ("get", "coordination.k8s.io/leases"),
    ("create", "coordination.k8s.io/leases"),
    ("get", "nodes"),
    ("list", "namespaces"),
    ("watch", "namespaces"),
    ("delete", "namespaces"),
    ("get", "apiextensions.k8s.io/customresourcedefinitions"),
];

async fn client_of(release: &str, home: &str, sets: &[&str]) -> Client {
    let plane = plane().unwrap();
    let rendered = template(release, home, sets).success().unwrap();
    let grant = grant_from_chart(plane, &rendered, home).await.unwrap();
    client(&grant).await
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_namespaces_limit_the_account_to_those_namespaces() {
    let sets = [
        "watchNamespaces={permissions-flows}",
        "prefectNamespaces={permissions-prefect}",
    ];
    let client = client_of("listed", "permissions-home", &sets).await;
    let flows = Some("permissions-flows");
    wait::until(SOON, "the permissions to apply", async || {
        is_allowed(&client, "list", "secrets", flows)
            .await
            .then_some(())
    })
    .await
    .unwrap();
    for (verb, what) in NEEDED {
        assert!(
            is_allowed(&client, verb, what, flows).await,
            "may not {verb} {what}"
        );
        // When a namespace is deleted, its Roles go before its bindings: a ClusterRole grants
        // these permissions.
        let cluster_wide = what == BINDINGS;
        for namespace in [Some("default"), None] {
            let granted = is_allowed(&client, verb, what, namespace).await;
            assert_eq!(granted, cluster_wide, "{verb} {what} in {namespace:?}");
        }
    }
    assert!(is_allowed(&client, "get", "namespaces:permissions-flows", flows).await);
    assert!(!is_allowed(&client, "get", "namespaces:default", Some("default")).await);
    // Of Services elsewhere, those that bindings may name, wherever they are.
    let elsewhere = Some("default");
    assert!(is_allowed(&client, "get", "services:prefect-server", elsewhere).await);
    assert!(!is_allowed(&client, "get", "services:other", elsewhere).await);
    assert!(!is_allowed(&client, "list", "services", elsewhere).await);
    // The admission policy for Jobs, by its name only.
    for kind in [
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
    ] {
        let policy = |name: &str| format!("admissionregistration.k8s.io/{kind}:{name}");
        let own = policy("doppler-prefect-jobs");
        assert!(is_allowed(&client, "get", &own, None).await, "{kind}");
        assert!(!is_allowed(&client, "patch", &own, None).await, "{kind}");
        assert!(
            !is_allowed(&client, "get", &policy("other"), None).await,
            "{kind}"
        );
        let any = format!("admissionregistration.k8s.io/{kind}");
        assert!(!is_allowed(&client, "list", &any, None).await, "{kind}");
    }
    for (verb, what) in NEVER {
        for namespace in [flows, Some("permissions-home"), Some("default"), None] {
            assert!(
                !is_allowed(&client, verb, what, namespace).await,
                "may {verb} {what} in {namespace:?}"
            );
        }
    }
    // In its own namespace it reads the hash key and no other Secret.
    let home = Some("permissions-home");
    assert!(is_allowed(&client, "create", "secrets", home).await);
    assert!(
        is_allowed(
            &client,
            "get",
            "secrets:doppler-prefect-operator-hash-key",
            home
        )
        .await
    );
    for (verb, what) in [
        ("get", "secrets:other"),
        ("list", "secrets"),
        ("patch", "secrets:doppler-prefect-operator-hash-key"),
        ("delete", "secrets:doppler-prefect-operator-hash-key"),
    ] {
        assert!(
            !is_allowed(&client, verb, what, home).await,
            "{verb} {what}"
        );
    }
    // The detach Job scales the operator's own Deployment to zero, and no other.
    let own = "listed-doppler-prefect-operator";
    assert!(
        is_allowed(
            &client,
            "patch",
            &format!("apps/deployments.scale:{own}"),
            home
        )
        .await
    );
    assert!(!is_allowed(&client, "patch", "apps/deployments.scale:other", home).await);
    assert!(!is_allowed(&client, "patch", &format!("apps/deployments:{own}"), home).await);
    let prefect = Some("permissions-prefect");
    assert!(is_allowed(&client, "watch", "prefect.io/prefectworkpools", prefect).await);
    assert!(!is_allowed(&client, "get", "secrets", prefect).await);

    // A real request is rejected as well.
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let refused = secrets.list(&ListParams::default()).await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_may_write_only_their_own_lease() {
    let sets = ["watchNamespaces={lease-flows}", "replicaCount=2"];
    let client = client_of("leasing", "permissions-lease", &sets).await;
    let home = Some("permissions-lease");
    let own = "coordination.k8s.io/leases:leasing-doppler-prefect-operator";
    wait::until(SOON, "the permissions to apply", async || {
        is_allowed(&client, "update", own, home).await.then_some(())
    })
    .await
    .unwrap();
    assert!(is_allowed(&client, "get", own, home).await);
    assert!(is_allowed(&client, "create", "coordination.k8s.io/leases", home).await);
    let other = "coordination.k8s.io/leases:other";
    for (verb, what, namespace) in [
        ("update", other, home),
        ("get", other, home),
        ("list", "coordination.k8s.io/leases", home),
        ("delete", own, home),
        ("patch", own, home),
        ("update", own, Some("lease-flows")),
        ("create", "coordination.k8s.io/leases", Some("lease-flows")),
    ] {
        assert!(
            !is_allowed(&client, verb, what, namespace).await,
            "may {verb} {what}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_list_the_account_has_the_same_rights_everywhere() {
    let client = client_of("everywhere", "permissions-everywhere", &[]).await;
    wait::until(SOON, "the permissions to apply", async || {
        is_allowed(&client, "list", "secrets", None)
            .await
            .then_some(())
    })
    .await
    .unwrap();
    for (verb, what) in NEEDED {
        assert!(
            is_allowed(&client, verb, what, None).await,
            "may not {verb} {what} everywhere"
        );
    }
    assert!(is_allowed(&client, "get", "namespaces:default", Some("default")).await);
    for (verb, what) in NEVER {
        for namespace in [Some("default"), Some("permissions-everywhere"), None] {
            assert!(
                !is_allowed(&client, verb, what, namespace).await,
                "may {verb} {what} in {namespace:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_may_be_watched_only_on_request_and_in_listed_namespaces() {
    let sets = ["watchNamespaces={pods-flows}", "runPods.watch=true"];
    let client = client_of("pods", "permissions-pods", &sets).await;
    let flows = Some("pods-flows");
    wait::until(SOON, "the permissions to apply", async || {
        is_allowed(&client, "list", "pods", flows)
            .await
            .then_some(())
    })
    .await
    .unwrap();
    assert!(is_allowed(&client, "watch", "pods", flows).await);
    for (verb, what, namespace) in [
        ("list", "pods", None),
        ("watch", "pods", Some("permissions-pods")),
        ("get", "pods", flows),
        ("get", "pods.log", flows),
        ("create", "pods", flows),
        ("create", "pods.exec", flows),
        ("patch", "pods", flows),
        ("delete", "pods", flows),
    ] {
        assert!(
            !is_allowed(&client, verb, what, namespace).await,
            "may {verb} {what} in {namespace:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_may_be_requested_only_of_listed_accounts() {
    let sets = [
        "watchNamespaces={tokens-flows}",
        "identities.serviceAccounts={doppler-reader,doppler-other}",
    ];
    let client = client_of("tokens", "permissions-tokens", &sets).await;
    let flows = Some("tokens-flows");
    wait::until(SOON, "the permissions to apply", async || {
        is_allowed(
            &client,
            "create",
            "serviceaccounts.token:doppler-reader",
            flows,
        )
        .await
        .then_some(())
    })
    .await
    .unwrap();
    assert!(
        is_allowed(
            &client,
            "create",
            "serviceaccounts.token:doppler-other",
            flows
        )
        .await
    );
    for (verb, what, namespace) in [
        ("create", "serviceaccounts.token", flows),
        ("create", "serviceaccounts.token:default", flows),
        (
            "create",
            "serviceaccounts.token:doppler-reader",
            Some("permissions-tokens"),
        ),
        (
            "create",
            "serviceaccounts.token:doppler-reader",
            Some("default"),
        ),
        ("create", "serviceaccounts.token:doppler-reader", None),
        ("get", "serviceaccounts:doppler-reader", flows),
        ("patch", "serviceaccounts:doppler-reader", flows),
        ("impersonate", "serviceaccounts:doppler-reader", flows),
    ] {
        assert!(
            !is_allowed(&client, verb, what, namespace).await,
            "may {verb} {what} in {namespace:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_review_asks_the_api_server() {
    let admin = plane().unwrap().admin_client().unwrap();
    assert!(is_allowed(&admin, "delete", "nodes", None).await);
}

/// The API server adds the rules of the chart to its own roles `view` and `edit`.
#[tokio::test(flavor = "multi_thread")]
async fn users_may_view_bindings_and_edit_them_only_on_request() {
    let plane = plane().unwrap();
    let namespace = "permissions-users";
    let member = async |role: &str| {
        let yaml = json!([
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": role}},
            {
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": role},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": role, "namespace": namespace}],
            },
        ]);
        let namespace_object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let admin = plane.admin_client().unwrap();
        for object in [&namespace_object, &yaml[0], &yaml[1]] {
            kubernetes::apply(&admin, namespace, &object.to_string())
                .await
                .unwrap();
        }
        client(&grant(plane, namespace, role).await.unwrap()).await
    };
    let (viewer, editor) = (member("view").await, member("edit").await);
    let install = async |sets: &[&str]| {
        let rendered = template("users", "permissions-users-home", sets)
            .success()
            .unwrap();
        grant_from_chart(plane, &rendered, "permissions-users-home")
            .await
            .unwrap();
    };
    let flows = Some(namespace);
    install(&["watchNamespaces={permissions-users}"]).await;
    wait::until(SOON, "the view to be aggregated", async || {
        is_allowed(&viewer, "list", BINDINGS, flows)
            .await
            .then_some(())
    })
    .await
    .unwrap();
    for (user, verb) in [
        (&viewer, "create"),
        (&viewer, "patch"),
        (&editor, "create"),
        (&editor, "patch"),
    ] {
        assert!(!is_allowed(user, verb, BINDINGS, flows).await, "{verb}");
    }
    assert!(is_allowed(&editor, "watch", BINDINGS, flows).await);
    install(&[
        "watchNamespaces={permissions-users}",
        "rbac.aggregateToEdit=true",
    ])
    .await;
    wait::until(SOON, "the edit role to be aggregated", async || {
        is_allowed(&editor, "patch", BINDINGS, flows)
            .await
            .then_some(())
    })
    .await
    .unwrap();
    for (user, verb, what) in [
        (&viewer, "patch", BINDINGS),
        (
            &editor,
            "patch",
            "doppler-prefect.dev/dopplerprefectbindings.status",
        ),
    ] {
        assert!(!is_allowed(user, verb, what, flows).await, "{verb} {what}");
    }
}
