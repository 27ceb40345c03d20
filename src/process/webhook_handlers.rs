//! What the leader does with verified webhooks: it triggers reads.
//!
//! Input: webhooks, and requests to refresh a binding.
//! Output: triggers of the configs that a webhook affects, and demands of the block and the configs of a
//! binding.
//! Invariants: it reads nothing itself. A secret that covers one project refreshes no config of another.

use std::sync::Arc;

use tokio::time::Instant;

use super::doppler_webhook::{Handlers, OnRefresh, OnWebhook};
use crate::{
    doppler::Configs,
    metrics::{Metrics, NotificationLabels},
    prefect::Blocks,
};

/// The pollers that webhooks trigger.
pub struct RefreshedPollers {
    /// Pollers of blocks.
    pub blocks: Blocks,
    /// Pollers of configs.
    pub configs: Configs,
}

impl RefreshedPollers {
    /// The handlers of webhooks, which are counted as change notifications.
    #[must_use]
    pub fn handlers(self, metrics: Arc<Metrics>) -> Handlers {
        let Self { blocks, configs } = self;
        let on_webhook: OnWebhook = {
            let configs = configs.clone();
            Arc::new(move |webhook| {
                let labels = NotificationLabels { source: "webhook" };
                metrics.change_notifications.get_or_create(&labels).inc();
                configs.refresh(Instant::now(), |key, _| {
                    webhook.affects(&key.project, &key.config)
                });
            })
        };
        let on_refresh: OnRefresh = Arc::new(move |scope, binding| {
            // Of a binding of several projects, only the configs of those that the secret covers.
            let is_covered = configs.demand_keys(binding, |key| scope.covers(&key.project));
            if is_covered {
                blocks.demand([binding]);
            }
            is_covered
        });
        Handlers {
            on_webhook,
            on_refresh,
        }
    }
}
