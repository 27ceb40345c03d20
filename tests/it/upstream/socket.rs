//! What a real Prefect server says on its event socket, to which client, and when it is silent.
//!
//! The operator's room for it is used directly here: what a server sends cannot be seen from outside.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doppler_prefect_operator::{
    prefect::{
        Client, Connection, SocketError, Told,
        connection::Auth,
        event_socket::{Limits, Loss, Refusal, events},
    },
    upstream::limiter::{Gate, Wish},
};
use futures::{StreamExt, stream::BoxStream};
use serde_json::json;
use testkit::prefect::{Block, PrefectApi, PrefectOptions, PrefectServer};
use testkit::wait;
use tokio::time::{Instant, timeout, timeout_at};

use crate::world::secret;

const PATIENCE: Duration = Duration::from_mins(1);
/// Between the readings of a stream on which something else is waited for.
const MOMENT: Duration = Duration::from_millis(250);

fn connection(url: &str, auth: Auth) -> Result<Connection> {
    Ok(Connection {
        api_url: url.parse()?,
        auth,
        headers: Vec::new(),
        ca: None,
    })
}

/// A stream, and whose names count: other tests change things on the same server.
struct Socket {
    told: BoxStream<'static, Result<Told, SocketError>>,
    prefix: &'static str,
}

impl Socket {
    /// Opens a socket and waits until it is heard on, since the server does not say when it has understood what is wanted.
    async fn open(
        server: &PrefectServer,
        api: &PrefectApi,
        auth: Auth,
        prefix: &'static str,
    ) -> Result<Self> {
        let connection = connection(&server.api_url(), auth)?;
        let told = events(&connection, Limits::default()).await?;
        let mut socket = Self { told, prefix };
        let mark = format!("{prefix}-mark-open");
        wait::until(PATIENCE, "the first event", async || {
            api.put_block(&mark, &Block::object("p", "c", "t")).await?;
            timeout(MOMENT, socket.next())
                .await
                .context("nothing is told")?
        })
        .await?;
        socket.heard(api, "ready").await?;
        Ok(socket)
    }

    /// The next event of a block or pool of ours.
    async fn next(&mut self) -> Result<Told> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = timeout_at(deadline, self.told.next()).await;
            let told = told.context("nothing is told")?.context("the end")??;
            let name = match &told {
                Told::Block { name, .. } => name.as_deref(),
                Told::Pool { name } => Some(name.as_str()),
                Told::Alive => None,
            };
            if name.is_some_and(|name| name.starts_with(self.prefix)) {
                return Ok(told);
            }
        }
    }

    /// What is told until a block made for it is told of, less such blocks. A request that a busy database refuses is sent again, and its event has
    /// come before: the same may be told twice, and a block that was not made after all with an id of its own.
    async fn heard(&mut self, api: &PrefectApi, mark: &str) -> Result<Vec<Told>> {
        let marks = format!("{}-mark-", self.prefix);
        let mark = format!("{marks}{mark}");
        let id = api.put_block(&mark, &Block::object("p", "c", "t")).await?;
        let mark = block(&id, &mark);
        let mut before = Vec::new();
        loop {
            match self.next().await? {
                told if told == mark => return Ok(before),
                Told::Block {
                    name: Some(name), ..
                } if name.starts_with(&marks) => {}
                told => before.push(told),
            }
        }
    }

    /// Sees to it that this, and nothing of another name, is told before the mark.
    async fn hears(&mut self, api: &PrefectApi, mark: &str, expected: &Told) -> Result<()> {
        let told = self.heard(api, mark).await?;
        let named = |told: &Told| match told {
            Told::Block { name, .. } => name.clone(),
            Told::Pool { name } => Some(name.clone()),
            Told::Alive => None,
        };
        ensure!(told.contains(expected), "{mark}: {told:?}");
        let others = told.iter().find(|told| named(told) != named(expected));
        ensure!(others.is_none(), "{mark}: {told:?}");
        Ok(())
    }
}

fn block(id: &str, name: &str) -> Told {
    Told::Block {
        id: id.to_owned(),
        name: Some(name.to_owned()),
    }
}

fn pool(name: &str) -> Told {
    let name = name.to_owned();
    Told::Pool { name }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_a_block_is_told_by_id_and_name() -> Result<()> {
    let server = PrefectServer::shared().await?;
    let api = server.api()?;
    let mut socket = Socket::open(server, &api, Auth::None, "told-b").await?;
    let (name, data) = ("told-b", Block::object("p", "c", "t"));

    let id = api.put_block(name, &data).await?;
    socket.hears(&api, "made", &block(&id, name)).await?;
    api.put_block(name, &data).await?;
    socket.hears(&api, "replaced", &block(&id, name)).await?;

    let path = format!("/block_documents/{id}");
    let another = json!({"name": "told-b-renamed", "data": {}});
    let renamed = api.patch(&path, &another);
    let refused = renamed.await.unwrap_err().to_string();
    ensure!(refused.contains("422"), "blocks keep their name: {refused}");

    api.delete_block("secret", name).await?;
    socket.hears(&api, "deleted", &block(&id, name)).await?;
    let again = api.put_block(name, &data).await?;
    ensure!(again != id, "a block made again has an id of its own");
    socket.hears(&api, "made-again", &block(&again, name)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_another_refers_to_is_told_of_by_its_own_id_which_the_other_knows()
-> Result<()> {
    let server = PrefectServer::shared().await?;
    let api = server.api()?;
    let mut socket = Socket::open(server, &api, Auth::None, "told-r").await?;
    let child = Block::object("p", "c", "t");
    let child_id = api.put_block("told-r-child", &child).await?;
    let of_child = block(&child_id, "told-r-child");
    socket.hears(&api, "child", &of_child).await?;
    let parent = Block::parent("toldparent", "told-r-child");
    let parent_id = api.put_block("told-r-parent", &parent).await?;
    let of_parent = block(&parent_id, "told-r-parent");
    socket.hears(&api, "parent", &of_parent).await?;

    api.put_block("told-r-child", &Block::object("p", "c", "other"))
        .await?;
    // Of the child, and nothing of the parent.
    socket.hears(&api, "changed", &of_child).await?;

    let client = Client::new(
        &connection(&server.api_url(), Auth::None)?,
        PATIENCE,
        Gate::small(),
    )?;
    let document = client
        .block("toldparent", "told-r-parent", &Wish::now())
        .await?;
    ensure!(document.is_of(&parent_id) && document.is_of(&child_id));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_a_work_pool_is_told_by_name() -> Result<()> {
    let server = PrefectServer::shared().await?;
    let api = server.api()?;
    let mut socket = Socket::open(server, &api, Auth::None, "told-p").await?;
    let name = "told-p";
    api.create_kubernetes_pool(name).await?;
    socket.hears(&api, "made", &pool(name)).await?;
    let mut template = api.template(name).await?;
    template["variables"]["properties"]["namespace"]["default"] = json!("jobs");
    api.set_template(name, &template).await?;
    socket.hears(&api, "changed", &pool(name)).await?;
    api.set_template(name, &template).await?;
    let told = socket.heard(&api, "same").await?;
    ensure!(told.is_empty(), "the same again is no change: {told:?}");
    api.delete_pool(name).await?;
    socket.hears(&api, "deleted", &pool(name)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_credentials_open_a_socket_which_is_lost_with_its_server() -> Result<()> {
    let pair = format!("admin:{}", secret("socket"));
    let options = PrefectOptions {
        auth: Some(pair.clone()),
        ..PrefectOptions::default()
    };
    let server = PrefectServer::start(options).await?;
    let api = server.api()?;
    let wrong = secret("wrong");
    for auth in [
        Auth::None,
        Auth::Basic(format!("admin:{wrong}").as_str().into()),
        Auth::Bearer(wrong.as_str().into()),
    ] {
        let connection = connection(&server.api_url(), auth)?;
        let error = events(&connection, Limits::default()).await.err();
        let error = error.context("a refusal")?;
        let shown = format!("{error} {error:?}");
        ensure!(!shown.contains(&wrong), "{shown}");
        let SocketError::Refused { why, .. } = error else {
            anyhow::bail!("{shown}")
        };
        ensure!(why == Refusal::Closed(1008), "{shown}");
    }
    let elsewhere = connection(
        &format!("http://127.0.0.1:{}", server.port()),
        Auth::Basic(pair.as_str().into()),
    )?;
    let error = events(&elsewhere, Limits::default()).await.err();
    ensure!(
        matches!(
            &error,
            Some(SocketError::Refused {
                why: Refusal::Status(403 | 404),
                ..
            })
        ),
        "a URL without /api: {error:?}"
    );

    let right = Auth::Basic(pair.as_str().into());
    let mut socket = Socket::open(&server, &api, right, "told-a").await?;
    server.stop().await;
    let error = socket.next().await.unwrap_err();
    ensure!(
        matches!(
            error.downcast_ref(),
            Some(SocketError::Lost {
                why: Loss::Closed | Loss::Broken,
                ..
            })
        ),
        "{error}"
    );
    Ok(())
}
