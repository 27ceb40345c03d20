//! What the node did for each pod, for tests.
//!
//! Input: the steps of the life cycle of each pod.
//! Output: a `PodRecord` for each pod.
//! Invariants: a record has no `Debug`, because it contains an environment.

use std::path::PathBuf;

use parking_lot::{Mutex, MutexGuard};

use super::environment::Environment;

/// A pod that the node has taken.
#[derive(Clone)]
pub struct PodRecord {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The flow run in the pod's labels.
    pub flow_run_id: Option<String>,
    pub(super) uid: String,
    pub(super) log_path: PathBuf,
    pub(super) env: Option<Environment>,
}

impl PodRecord {
    /// The output of its process so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log_path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The names of the variables in the pod's environment; none before the container is created.
    #[must_use]
    pub fn env_names(&self) -> Vec<String> {
        self.env
            .as_ref()
            .map(Environment::names)
            .unwrap_or_default()
    }

    /// One value of the pod's environment.
    #[must_use]
    pub fn env_value(&self, name: &str) -> Option<String> {
        self.env.as_ref()?.get(name).map(ToOwned::to_owned)
    }
}

#[derive(Default)]
pub(super) struct Records(Mutex<Vec<PodRecord>>);

impl Records {
    pub(super) fn all(&self) -> Vec<PodRecord> {
        self.lock().clone()
    }

    pub(super) fn add(&self, record: PodRecord) {
        self.lock().push(record);
    }

    pub(super) fn set_environment(&self, uid: &str, env: &Environment) {
        for record in self.lock().iter_mut().filter(|r| r.uid == uid) {
            record.env = Some(env.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PodRecord>> {
        self.0.lock()
    }
}
