//! The network of the cluster: host names as users write them, routed to servers on this machine.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use reqwest::{Client, Proxy};
use testkit::doppler::{DOWNLOAD_PATH, Doppler, Fault, WATCH_PATH};
use testkit::network::Network;
use testkit::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TIMEOUT: Duration = Duration::from_secs(20);
const HOST: &str = "doppler.example.svc:4200";

struct World {
    network: Network,
    doppler: Doppler,
    token: String,
}

fn world() -> Result<World> {
    let (network, doppler) = (Network::start()?, Doppler::start()?);
    doppler.set("shop", "dev", "KEY", "1");
    let token = doppler.service_token("shop", "dev");
    network.route(HOST, doppler.http_addr());
    network.route("api.doppler.com:443", doppler.tls_addr());
    Ok(World {
        network,
        doppler,
        token,
    })
}

impl World {
    fn client(&self) -> Result<Client> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = reqwest::Certificate::from_pem(self.doppler.ca_pem().as_bytes())?;
        let builder = Client::builder()
            .proxy(Proxy::all(self.network.url())?)
            .timeout(TIMEOUT);
        Ok(builder.tls_certs_only([authority]).build()?)
    }

    async fn status(&self, client: &Client, base: &str) -> Result<u16> {
        let request = client
            .get(format!("{base}{DOWNLOAD_PATH}?format=env"))
            .bearer_auth(&self.token);
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        answer.bytes().await?;
        Ok(status)
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    wait::until(TIMEOUT, what, async || holds().then_some(())).await
}

#[tokio::test]
async fn forwards_requests_by_name_and_keeps_the_connection() -> Result<()> {
    let world = world()?;
    let client = world.client()?;
    for _ in 0..3 {
        assert_eq!(world.status(&client, &format!("http://{HOST}")).await?, 200);
    }
    let call = &world.doppler.requests()[0];
    assert_eq!(
        (call.path.as_str(), call.query["format"].as_str()),
        (DOWNLOAD_PATH, "env")
    );
    assert_eq!(call.headers["host"], HOST);
    assert!(call.uses_token(&world.token));
    assert_eq!(world.network.requests(HOST), 3);
    Ok(())
}

#[tokio::test]
async fn serves_many_requests_over_one_connection() -> Result<()> {
    let world = world()?;
    let mut stream = TcpStream::connect(world.network.url().trim_start_matches("http://")).await?;
    for number in 0..3 {
        let request = format!(
            "GET http://{HOST}/v3/me?n={number} HTTP/1.1\r\nHost: elsewhere\r\nProxy-Connection: keep-alive\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        while !answer.ends_with(r#""success":false}"#) {
            let mut piece = [0; 1024];
            let read = tokio::time::timeout(TIMEOUT, stream.read(&mut piece)).await??;
            assert!(read > 0, "closed after {answer}");
            answer.push_str(std::str::from_utf8(&piece[..read])?);
        }
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    let calls = world.doppler.requests();
    assert!(
        calls
            .iter()
            .all(|call| call.headers["host"] == HOST
                && !call.headers.contains_key("proxy-connection"))
    );
    Ok(())
}

#[tokio::test]
async fn tunnels_to_dopplers_public_address() -> Result<()> {
    let world = world()?;
    assert_eq!(
        world
            .status(&world.client()?, "https://api.doppler.com")
            .await?,
        200
    );
    assert_eq!(world.doppler.requests()[0].version, "HTTP/2.0");
    assert_eq!(
        world.network.requests_by_host(),
        [("api.doppler.com:443".to_owned(), 1)].into()
    );
    Ok(())
}

#[tokio::test]
async fn returns_502_for_unknown_hosts() -> Result<()> {
    let world = world()?;
    let client = world.client()?;
    assert_eq!(
        world
            .status(&client, "http://prefect-server.prefect.svc:4200")
            .await?,
        502
    );
    assert!(world.status(&client, "https://example.com").await.is_err());
    world.network.remove(HOST);
    assert_eq!(world.status(&client, &format!("http://{HOST}")).await?, 502);
    // The port has no listener any more.
    let gone: SocketAddr = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    world.network.route(HOST, gone);
    assert_eq!(world.status(&client, &format!("http://{HOST}")).await?, 502);
    Ok(())
}

#[tokio::test]
async fn disconnects_and_reconnects_a_host() -> Result<()> {
    let world = world()?;
    let client = world.client()?;
    for base in [
        format!("http://{HOST}"),
        "https://api.doppler.com".to_owned(),
    ] {
        assert_eq!(world.status(&client, &base).await?, 200);
        for host in [HOST, "api.doppler.com:443"] {
            world.network.disconnect(host);
        }
        assert!(world.status(&client, &base).await.is_err());
        world.network.route(HOST, world.doppler.http_addr());
        world
            .network
            .route("api.doppler.com:443", world.doppler.tls_addr());
        assert_eq!(world.status(&client, &base).await?, 200);
    }
    Ok(())
}

#[tokio::test]
async fn disconnect_ends_open_streams() -> Result<()> {
    let world = world()?;
    for (base, host) in [
        (format!("http://{HOST}"), HOST),
        ("https://api.doppler.com".to_owned(), "api.doppler.com:443"),
    ] {
        let request = world
            .client()?
            .get(format!("{base}{WATCH_PATH}"))
            .bearer_auth(&world.token);
        let mut stream = request.send().await?;
        assert!(stream.chunk().await?.is_some());
        world.network.disconnect(host);
        assert!(stream.chunk().await.is_err());
        until("the stream to be closed at the server", || {
            world.doppler.open_streams() == 0
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn hangs_until_the_route_is_set_again() -> Result<()> {
    let world = world()?;
    let client = world.client()?;
    world.network.hang(HOST);
    let url = format!("http://{HOST}{DOWNLOAD_PATH}");
    let response = client
        .get(&url)
        .timeout(Duration::from_millis(200))
        .send()
        .await;
    assert!(response.unwrap_err().is_timeout());
    assert_eq!(world.doppler.counts().requests, 0);
    world.network.route(HOST, world.doppler.http_addr());
    assert_eq!(world.status(&client, &format!("http://{HOST}")).await?, 200);
    Ok(())
}

#[tokio::test]
async fn hang_freezes_open_streams() -> Result<()> {
    let world = world()?;
    for (base, host) in [
        (format!("http://{HOST}"), HOST),
        ("https://api.doppler.com".to_owned(), "api.doppler.com:443"),
    ] {
        let request = world
            .client()?
            .get(format!("{base}{WATCH_PATH}"))
            .bearer_auth(&world.token);
        let mut stream = request.send().await?;
        assert!(stream.chunk().await?.is_some());
        world.doppler.send_update("shop", "dev");
        assert!(stream.chunk().await?.is_some());
        world.network.hang(host);
        world.doppler.send_update("shop", "dev");
        let frozen = tokio::time::timeout(Duration::from_millis(300), stream.chunk()).await;
        assert!(frozen.is_err(), "{frozen:?}");
        world.network.route(host, world.doppler.http_addr());
        assert!(stream.chunk().await.is_err());
        until("the stream to be closed", || {
            world.doppler.open_streams() == 0
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn closed_client_connection_closes_the_servers() -> Result<()> {
    let world = world()?;
    let request = world
        .client()?
        .get(format!("http://{HOST}{WATCH_PATH}"))
        .bearer_auth(&world.token);
    let mut stream = request.send().await?;
    assert!(stream.chunk().await?.is_some());
    assert_eq!(world.doppler.open_streams(), 1);
    drop(stream);
    until("the stream to be closed", || {
        world.doppler.open_streams() == 0
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn forwards_large_bodies_and_truncated_responses() -> Result<()> {
    let world = world()?;
    let client = world.client()?;
    let once = |fault| world.doppler.fault_times(1, |_| true, fault);
    let url = format!("http://{HOST}{DOWNLOAD_PATH}");
    once(Fault::Huge(8 << 20));
    assert!(client.get(&url).send().await?.bytes().await?.len() > 8 << 20);
    once(Fault::Truncate(5));
    assert!(
        client
            .get(&url)
            .bearer_auth(&world.token)
            .send()
            .await?
            .bytes()
            .await
            .is_err()
    );
    once(Fault::Close);
    assert!(client.get(&url).send().await.is_err());
    Ok(())
}

/// A server that accepts an upgrade and then echoes, as a WebSocket server would.
#[tokio::test]
async fn forwards_upgrades() -> Result<()> {
    let world = world()?;
    let server = TcpListener::bind("127.0.0.1:0").await?;
    world
        .network
        .route("socket.example:80", server.local_addr()?);
    let echo = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
            )
            .await?;
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await?;
        anyhow::Ok(String::from_utf8(head)?)
    });
    let mut stream = TcpStream::connect(world.network.url().trim_start_matches("http://")).await?;
    stream
        .write_all(b"GET http://socket.example/out HTTP/1.1\r\nHost: socket.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        .await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(TIMEOUT, stream.read_u8()).await??);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    stream.write_all(b"hello").await?;
    let mut back = [0; 5];
    tokio::time::timeout(TIMEOUT, stream.read_exact(&mut back)).await??;
    assert_eq!(&back, b"hello");
    drop(stream);
    let received = tokio::time::timeout(TIMEOUT, echo).await???;
    assert!(received.starts_with("GET /out HTTP/1.1\r\n"), "{received}");
    Ok(())
}
