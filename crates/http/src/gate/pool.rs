//! Kept connections to the app in HTTP/1.
//!
//! Hyper's own client pools for any host and any version, and asks for a task, two locks and a hashed key with every
//! request for it. There is one app here, and what is given back is whole: a connection returns when the answer that
//! came over it has been read to its end.
use super::forward::Outbound;
use crate::socket::Outgoing;
use bytes::Bytes;
use http::Uri;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use std::collections::VecDeque;
use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

/// Many app servers close what has been idle for five seconds, and a request that meets the close is lost.
pub(super) const IDLE: Duration = Duration::from_secs(4);

/// The app's connections that nobody uses, the last used at the back.
#[derive(Clone)]
pub(super) struct Pool(Arc<Inner>);

struct Inner {
    shelf: Mutex<Shelf>,
    connector: HttpConnector,
    uri: Uri,
}

#[derive(Default)]
struct Shelf {
    idle: VecDeque<Idle>,
    /// A task closes what has been idle for too long.
    swept: bool,
}

struct Idle {
    send: SendRequest<Outbound>,
    since: Instant,
}

impl Inner {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Nothing inside the lock can panic half way.
        self.shelf.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Pool {
    pub(super) fn new(connector: HttpConnector, uri: Uri) -> Pool {
        Pool(Arc::new(Inner {
            shelf: Mutex::default(),
            connector,
            uri,
        }))
    }

    /// A kept connection, the last used first: those that are not needed grow old.
    pub(super) fn take(&self) -> Option<SendRequest<Outbound>> {
        let mut shelf = self.0.shelf();
        // Others were closed by the app, or are still busy with a body that their answer did not wait for.
        let at = shelf.idle.iter().rposition(|i| i.send.is_ready())?;
        let Idle { send, since } = shelf.idle.remove(at)?;
        (since.elapsed() < IDLE).then_some(send)
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<SendRequest<Outbound>, Box<dyn Error + Send + Sync>> {
        let mut connector = self.0.connector.clone();
        let io = connector.ready().await?.call(self.0.uri.clone()).await?;
        let (send, connection) = Builder::new()
            .handshake(TokioIo::new(Outgoing(io.into_inner())))
            .await?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to the app broke");
            }
        });
        Ok(send)
    }

    fn put(&self, send: SendRequest<Outbound>) {
        let since = Instant::now();
        let mut shelf = self.0.shelf();
        shelf.idle.push_back(Idle { send, since });
        if !std::mem::replace(&mut shelf.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }
}

/// Closes what has been idle for too long, until nothing is left.
async fn sweep(pool: Weak<Inner>) {
    loop {
        tokio::time::sleep(IDLE / 4).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut shelf = pool.shelf();
        shelf
            .idle
            .retain(|i| !i.send.is_closed() && i.since.elapsed() < IDLE);
        if shelf.idle.is_empty() {
            shelf.swept = false;
            return;
        }
    }
}

/// The body of the app's answer. At its end the connection is free again; dropped before, it is closed.
pub struct AppBody {
    incoming: Incoming,
    connection: Option<(SendRequest<Outbound>, Pool)>,
}

impl std::fmt::Debug for AppBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppBody").finish_non_exhaustive()
    }
}

impl AppBody {
    pub(super) fn over(incoming: Incoming, connection: SendRequest<Outbound>, pool: Pool) -> AppBody {
        let mut body = AppBody {
            incoming,
            connection: Some((connection, pool)),
        };
        body.free_at_end();
        body
    }

    /// The body of an answer whose connection is somebody else's to keep.
    pub(super) fn of(incoming: Incoming) -> AppBody {
        AppBody {
            incoming,
            connection: None,
        }
    }

    fn free_at_end(&mut self) {
        if self.incoming.is_end_stream()
            && let Some((send, pool)) = self.connection.take()
            && !send.is_closed()
        {
            pool.put(send);
        }
    }
}

impl Body for AppBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.incoming).poll_frame(cx));
        match &frame {
            Some(Ok(_)) => this.free_at_end(),
            Some(Err(_)) => this.connection = None,
            None => {
                if let Some((send, pool)) = this.connection.take()
                    && !send.is_closed()
                {
                    pool.put(send);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
