//! The watch of the pods of flow runs, in one scope.
//!
//! Input: the API server's watch of pods with the label of a flow run.
//! Output: calls of [`RunPods`].
//! Invariants: the watch begins once the bindings of the scope are listed, so that all Secrets that
//! they manage are known. A refusal is reported once, ends every report of pods, and affects nothing
//! else.

use std::sync::Arc;

use futures::{Stream, StreamExt};
use kube::{
    Client,
    runtime::{
        reflector::Store,
        watcher::{self, Event},
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    RunPods,
    pod::{RUN_ID_LABEL, RunPod},
};
use crate::{
    controller::{
        scope_state::{Progress, ScopeState},
        stored_binding::StoredBinding,
        watches::{error_text, scoped_api, status_code, with_backoff},
    },
    crd::BindingRef,
};

/// Pods of one page of a list. The text of a pod takes up to 1.5 MB, which the operator holds until it
/// has read the page.
const PAGE_SIZE: u32 = 20;
/// What a refused list or watch means.
const REFUSED: &str = "the operator may not list and watch pods, so it does not report pods that do not start: grant the permission by the chart value runPods.watch, or omit --watch-run-pods";

/// The watch of the pods of flow runs, in one scope.
pub struct RunPodWatch {
    /// The API server.
    pub client: Client,
    /// Where the pods are, and how far the lists of bindings are.
    pub scope: Arc<ScopeState>,
    /// The bindings of the scope.
    pub bindings: Store<StoredBinding>,
    /// The pods to report.
    pub pods: Arc<RunPods>,
}

impl std::fmt::Debug for RunPodWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunPodWatch")
            .field("scope", self.scope.scope())
            .finish_non_exhaustive()
    }
}

impl RunPodWatch {
    /// Watches pods until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut progress = self.scope.subscribe();
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = progress.wait_for(Progress::is_complete) => {}
        }
        for binding in self.bindings.state() {
            if let Ok(parsed) = binding.parse() {
                let key = BindingRef::of(&*binding);
                self.pods.track(&key, parsed.secret_name());
            }
        }
        let api = scoped_api::<RunPod>(self.client.clone(), self.scope.scope());
        let config = watcher::Config::default()
            .labels(RUN_ID_LABEL)
            .page_size(PAGE_SIZE);
        let events = with_backoff(kube::runtime::watcher(api, config));
        self.follow(events.take_until(shutdown.cancelled_owned()))
            .await;
    }

    async fn follow(&self, events: impl Stream<Item = watcher::Result<Event<RunPod>>>) {
        let mut events = std::pin::pin!(events);
        let (mut list, mut is_refused) = (0, false);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => list += 1,
                Ok(Event::InitApply(pod) | Event::Apply(pod)) => self.pods.on_apply(&pod, list),
                Ok(Event::Delete(pod)) => self.pods.on_delete(&pod),
                Ok(Event::InitDone) => {
                    self.pods.on_listed(self.scope.namespace(), list);
                    if std::mem::take(&mut is_refused) {
                        let namespace = self.scope.namespace();
                        info!(namespace, "the operator watches the pods of flow runs");
                    }
                }
                Err(error) => {
                    let (namespace, reason) = (self.scope.namespace(), error_text(&error));
                    let refused = status_code(&error) == Some(403);
                    if refused {
                        // Otherwise nothing would end what was reported of them.
                        list += 1;
                        self.pods.on_listed(namespace, list);
                    }
                    if refused && !std::mem::replace(&mut is_refused, true) {
                        warn!(namespace, reason, "{REFUSED}");
                    } else {
                        debug!(
                            namespace,
                            reason,
                            "the watch of pods was interrupted; the operator opens it again"
                        );
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
