//! The socket of a connection.
use crate::doings::{Doings, Place};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! each {
    ($socket:expr, $io:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($io) => $call,
            Socket::Unix($io) => $call,
            Socket::Tls($io) => $call,
        }
    };
}

/// The socket, with a note of when bytes came.
pub(crate) struct Watched {
    pub(crate) socket: Socket,
    pub(crate) doings: Arc<Doings>,
    pub(crate) _place: Place,
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(each!(&mut this.socket, io => Pin::new(io).poll_read(cx, buf)))?;
        if buf.filled().len() > before {
            this.doings.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(&mut self.get_mut().socket, io => Pin::new(io).poll_write(cx, buf))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(io) => poll_write_pieces(io, cx, bufs),
            Socket::Unix(io) => poll_write_pieces(io, cx, bufs),
            Socket::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        each!(&self.socket, io => io.is_write_vectored())
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().socket, io => Pin::new(io).poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().socket, io => Pin::new(io).poll_shutdown(cx))
    }
}

/// Below it, a copy costs less than what the kernel asks for a list of buffers: the head and body of a small answer.
const SMALL: usize = 1024;

fn poll_write_pieces(
    io: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [one] = bufs {
        return Pin::new(io).poll_write(cx, one);
    }
    if bufs.iter().map(|b| b.len()).sum::<usize>() > SMALL {
        return Pin::new(io).poll_write_vectored(cx, bufs);
    }
    let (mut all, mut end) = ([0; SMALL], 0);
    for buf in bufs {
        all[end..end + buf.len()].copy_from_slice(buf);
        end += buf.len();
    }
    Pin::new(io).poll_write(cx, &all[..end])
}

/// A connection that we have made.
pub(crate) struct Outgoing(pub(crate) TcpStream);

impl AsyncRead for Outgoing {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Outgoing {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_pieces(&mut self.get_mut().0, cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
