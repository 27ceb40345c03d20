//! A relay in front of a server, which shows the faults of a network or of a proxy.
//!
//! Input: the address of the server, and a [`Mode`]. Output: an address that stays the same.
//! Invariants: a new mode ends all connections of the old one. A relay keeps no byte that it
//! forwards.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// How a relay treats connections.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Forwards both directions.
    Forward,
    /// Forwards both directions to another server.
    ForwardTo(SocketAddr),
    /// Forwards both directions of a TLS connection, with this certificate.
    Tls(Arc<ServerConfig>),
    /// Nothing listens.
    Refuse,
    /// Each connection is reset.
    Reset,
    /// Each connection is accepted and gets no byte.
    Silent,
    /// Each request gets these bytes; then the connection is closed.
    Answer(Vec<u8>),
    /// Each request gets these bytes; then the connection stays open.
    Stall(Vec<u8>),
    /// Each request gets these bytes, one every interval.
    Trickle(Vec<u8>, Duration),
}

impl Mode {
    /// A response with this status line, headers, and a body of the right length.
    pub fn response(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::Answer(
            format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
                .into_bytes(),
        )
    }

    /// A JSON response.
    pub fn json(status: &str, body: &str) -> Self {
        Self::response(status, "content-type: application/json\r\n", body)
    }
}

/// A running relay. It ends with its value.
pub struct Relay {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Starts a relay to `server` on a free port of 127.0.0.1.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("a port for a relay")?;
        let address = listener.local_addr()?;
        let mode = watch::Sender::new(Mode::Forward);
        let connections = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(serve(
            listener,
            server,
            mode.subscribe(),
            Arc::clone(&connections),
        ));
        Ok(Self {
            address,
            mode,
            connections,
            task,
        })
    }

    /// The relay's base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the mode, and ends all connections.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// The relay's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The number of connections so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    server: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    connections: Arc<AtomicU64>,
) {
    let Ok(address) = listener.local_addr() else {
        return;
    };
    let mut listener = Some(listener);
    loop {
        let now = mode.borrow_and_update().clone();
        if matches!(now, Mode::Refuse) {
            listener = None;
            if mode.changed().await.is_err() {
                return;
            }
            continue;
        }
        // After a refusal the port is bound again; old connections may still hold it for a moment.
        let listening = if let Some(listening) = listener.take() {
            listening
        } else if let Ok(listening) = TcpListener::bind(address).await {
            listening
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return },
            accepted = listening.accept() => if let Ok((client, _)) = accepted {
                connections.fetch_add(1, Ordering::Relaxed);
                // The copy has seen the mode of this connection.
                tokio::spawn(connection(client, server, now, mode.clone()));
            },
        }
        listener = Some(listening);
    }
}

/// Serves one connection until the mode changes.
async fn connection(
    client: TcpStream,
    server: SocketAddr,
    now: Mode,
    mut mode: watch::Receiver<Mode>,
) {
    tokio::select! {
        _ = mode.changed() => {}
        _ = show(client, server, &now) => {}
    }
}

/// Forwards both directions until one peer ends.
async fn forward<C>(mut client: C, server: SocketAddr) -> std::io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let mut server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

async fn show(mut client: TcpStream, server: SocketAddr, mode: &Mode) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    match mode {
        Mode::Forward => forward(client, server).await?,
        Mode::ForwardTo(other) => forward(client, *other).await?,
        Mode::Tls(config) => {
            let client = TlsAcceptor::from(Arc::clone(config)).accept(client).await?;
            forward(client, server).await?;
        }
        Mode::Refuse => {}
        Mode::Reset => client.set_zero_linger()?,
        Mode::Silent => std::future::pending().await,
        Mode::Answer(bytes) => {
            read_request(&mut client).await?;
            client.write_all(bytes).await?;
            client.shutdown().await?;
            // The client closes first, so that no reset overtakes the last bytes.
            let mut rest = [0; 1024];
            while client.read(&mut rest).await? > 0 {}
        }
        Mode::Stall(bytes) => {
            read_request(&mut client).await?;
            client.write_all(bytes).await?;
            std::future::pending::<()>().await;
        }
        Mode::Trickle(bytes, interval) => {
            read_request(&mut client).await?;
            for byte in bytes {
                client.write_all(&[*byte]).await?;
                tokio::time::sleep(*interval).await;
            }
        }
    }
    Ok(())
}

/// Reads until the end of a request's head.
async fn read_request(client: &mut TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut part = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = client.read(&mut part).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&part[..read]);
    }
    Ok(())
}
