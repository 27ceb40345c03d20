//! Files and mounts that the API server rejects.

use serde_json::{Value, json};

/// Each change of the valid spec, with a part of the message that rejects it.
pub(super) fn refusals() -> Vec<(Value, &'static str)> {
    let files = |files: Value| json!({"managedSecret": {"files": files}});
    let mount = |mount: Value| {
        let files = json!({"a": {"from": "A"}});
        json!({
            "managedSecret": {"files": files},
            "inject": {"workPools": [{"name": "k8s", "mount": mount}]},
        })
    };
    vec![
        (
            files(json!({"a": {}})),
            "set exactly one of template, from and format",
        ),
        (
            files(json!({"a": {"template": "x", "format": "Json"}})),
            "set exactly one of template, from and format",
        ),
        (
            files(json!({"a": {"template": "x", "encoding": "Base64"}})),
            "encoding says how the value in from is stored: set from as well",
        ),
        (
            files(json!({"a/b": {"from": "A"}})),
            "a file has a name that cannot be a key of a Secret",
        ),
        (
            files(json!({"..a": {"from": "A"}})),
            "a file has a name that cannot be a key of a Secret",
        ),
        (
            files(json!({"a": {"template": "x".repeat(16385)}})),
            "spec.managedSecret.files.a.template",
        ),
        (
            json!({"inject": {"workPools": [{"name": "k8s", "mount": {"path": "/srv/x"}}]}}),
            "mount needs files: set spec.managedSecret.files as well",
        ),
        (
            json!({"inject": {"jobs": [{"matchLabels": {"a": "b"}, "mount": {"path": "/srv/x"}}]}}),
            "mount needs files: set spec.managedSecret.files as well",
        ),
        (
            mount(json!({"path": "/srv/x", "files": ["b"]})),
            "mount.files names a file that spec.managedSecret.files does not have",
        ),
        (
            json!({
                "managedSecret": {"files": {"a": {"from": "A"}}},
                "inject": {"jobs": [{"matchLabels": {"a": "b"}, "mount": {"path": "/srv/x", "files": ["a", "b"]}}]},
            }),
            "mount.files names a file that spec.managedSecret.files does not have",
        ),
        (
            mount(json!({"path": "/srv/x", "files": ["a", "a"]})),
            "files names a file twice",
        ),
        (
            mount(json!({"path": "/srv/x", "files": []})),
            "spec.inject.workPools[0].mount.files",
        ),
        (
            mount(json!({"path": "srv/x"})),
            "spec.inject.workPools[0].mount.path",
        ),
        (
            mount(json!({"path": "/"})),
            "spec.inject.workPools[0].mount.path",
        ),
        (
            mount(json!({"path": "/srv/x/"})),
            "spec.inject.workPools[0].mount.path",
        ),
        (
            mount(json!({"path": "/srv/a:b"})),
            "spec.inject.workPools[0].mount.path",
        ),
        (
            mount(json!({"path": "/srv/{{ x }}"})),
            "spec.inject.workPools[0].mount.path",
        ),
        (
            mount(json!({"path": "/srv/../etc"})),
            "path has a part . or ..",
        ),
        (
            mount(json!({"path": "/srv/./x"})),
            "path has a part . or ..",
        ),
        (
            mount(json!({"path": "/usr/lib/x"})),
            "the programs of the image rely on",
        ),
        (
            mount(json!({"path": "/var/run/secrets/x"})),
            "the programs of the image rely on",
        ),
        (
            mount(json!({"path": "/etc"})),
            "the programs of the image rely on",
        ),
        (
            json!({
                "managedSecret": {"files": {"a": {"from": "A"}}},
                "inject": {"workPools": [{"name": "k8s", "runs": "Selected", "mount": {"path": "/srv/x"}}]},
            }),
            "mount and runs: Selected exclude each other",
        ),
    ]
}
