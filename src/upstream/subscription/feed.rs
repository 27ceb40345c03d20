//! What a feed of change notifications is, and the state it is in.
//!
//! Input: a function that connects, and one that receives messages.
//! Output: [`FeedSpec`] for the subscriptions of one upstream, [`FeedState`] for its subscribers.
//! Invariants: data only. It knows no upstream.

use std::{sync::Arc, time::Duration};

use futures::{future::BoxFuture, stream::BoxStream};

/// Whether the upstream reports changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FeedState {
    /// No feed is configured.
    #[default]
    Disabled,
    /// The first connection is being opened.
    Connecting,
    /// Changes are reported.
    Connected,
    /// The connection is open, but the upstream has not shown yet that it reports changes: subscribers
    /// poll as without it.
    Unproven,
    /// The connection is lost, and is being opened again.
    Disconnected,
    /// The maximum number of connections is open.
    OverLimit,
    /// The upstream rejects the connection, for this reason.
    Rejected(Arc<str>),
}

/// Why a connection could not be opened, or was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Why the upstream rejects the connection, for the user: this does not pass by itself.
    pub rejected: Option<String>,
    /// How long the upstream asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl Disconnect {
    /// A loss after which the connection is opened again.
    #[must_use]
    pub const fn transient() -> Self {
        Self {
            rejected: None,
            retry_after: None,
        }
    }
}

/// The messages of a connection. Each one reports a change.
pub type Messages<T> = BoxStream<'static, Result<T, Disconnect>>;
/// A connection that is established.
pub struct Opened<T> {
    /// Its messages.
    pub messages: Messages<T>,
    /// Whether the upstream is known to report all changes.
    pub is_proven: bool,
}
/// Opens a connection.
pub type Connect<K, T> =
    Box<dyn Fn(K) -> BoxFuture<'static, Result<Opened<T>, Disconnect>> + Send + Sync>;
/// Receives the messages of a connection.
pub type OnMessage<K, T> = Box<dyn Fn(&K, T) + Send + Sync>;

/// The feed of one upstream.
pub struct FeedSpec<K, T> {
    /// The upstream's name in metrics: `doppler` or `prefect`.
    pub upstream: &'static str,
    /// Opens a connection.
    pub connect: Connect<K, T>,
    /// Receives the messages. Without it, each message triggers all subscribers of the connection.
    pub on_message: Option<OnMessage<K, T>>,
    /// Whether a message shows that the upstream reports all changes.
    pub proves: fn(&T) -> bool,
    /// What a message counts as in the metric of change notifications.
    pub source: fn(&T) -> &'static str,
    /// Whether subscribers poll less often while the feed is connected. After a loss they read at
    /// once and poll as before.
    pub slows_polling: bool,
    /// For an upstream that does not say when it reports changes: after a reconnect everything is
    /// read at once, and once more after this delay.
    pub reread_after: Option<Duration>,
    /// The host of a key, whose rejections are counted together.
    pub host: fn(&K) -> String,
    /// How many connections may be open. Tenants share them.
    pub max_connections: usize,
}
