//! Bounds what the messages of all event sockets take together while they arrive.
//!
//! Input: the byte stream of a socket, and a signal at each complete message.
//! Output: the same bytes, or an error if there is no room for them.
//! Invariants: a message of an ordinary size never fails because of other sockets. A socket that fails
//! is opened again, and then everything is read once, so no change is missed.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Semaphore, SemaphorePermit},
};

/// What the messages of all sockets together may take, in bytes, beyond [`UNRESERVED_BYTES`] of each.
const TOTAL_BYTES: usize = 4 << 20;
/// The first bytes of a message are not counted. Events of blocks and of most pools are smaller.
const UNRESERVED_BYTES: usize = 32 << 10;

static RESERVATIONS: Semaphore = Semaphore::const_new(TOTAL_BYTES);

/// A byte stream that counts the bytes of the message that is arriving.
pub(super) struct Metered<S> {
    inner: S,
    room: &'static Semaphore,
    received: usize,
    reserved: Option<SemaphorePermit<'static>>,
}

impl<S> Metered<S> {
    pub(super) fn new(inner: S) -> Self {
        Self::with_room(inner, &RESERVATIONS)
    }

    fn with_room(inner: S, room: &'static Semaphore) -> Self {
        Self {
            inner,
            room,
            received: 0,
            reserved: None,
        }
    }

    /// The message is complete, and dropped soon.
    pub(super) fn message_done(&mut self) {
        self.received = 0;
        self.reserved = None;
    }

    /// Counts bytes that have arrived.
    fn count(&mut self, bytes: usize) -> io::Result<()> {
        self.received = self.received.saturating_add(bytes);
        let held = self
            .reserved
            .as_ref()
            .map_or(0, SemaphorePermit::num_permits);
        let needed = self.received.saturating_sub(UNRESERVED_BYTES);
        if needed <= held {
            return Ok(());
        }
        let more = u32::try_from(needed - held).unwrap_or(u32::MAX);
        let more = self.room.try_acquire_many(more);
        let more = more.map_err(|_| io::Error::other("too many large messages"))?;
        match &mut self.reserved {
            Some(reserved) => reserved.merge(more),
            None => self.reserved = Some(more),
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = polled {
            let bytes = buffer.filled().len() - before;
            return Poll::Ready(self.count(bytes));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn large_messages_share_a_bound_and_small_ones_need_none() {
        static ROOM: Semaphore = Semaphore::const_new(100_000);
        let large = vec![b'x'; UNRESERVED_BYTES + 60_000];
        let read = async |stream: &mut Metered<&[u8]>| {
            let mut bytes = vec![0; stream.inner.len()];
            stream.read_exact(&mut bytes).await
        };
        let mut first = Metered::with_room(&*large, &ROOM);
        assert!(read(&mut first).await.is_ok());
        let mut second = Metered::with_room(&*large, &ROOM);
        assert!(read(&mut second).await.is_err(), "there is no room for it");
        let small = vec![b'x'; UNRESERVED_BYTES];
        let mut small = Metered::with_room(&*small, &ROOM);
        assert!(read(&mut small).await.is_ok());
        first.message_done();
        let mut third = Metered::with_room(&*large, &ROOM);
        assert!(read(&mut third).await.is_ok());
        drop(third);
        assert_eq!(ROOM.available_permits(), 100_000);
    }
}
