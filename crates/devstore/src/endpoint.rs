//! One address and what is behind it: online, offline, closed.
use crate::requests::Side;
use crate::serve::{self, Desk, Handshake};
use crate::store::StartError;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Nothing takes so long between fork and exec.
const FORKED: Duration = Duration::from_secs(5);

/// One address and what is behind it.
pub(crate) struct Endpoint<H> {
    side: Side,
    pub(crate) address: SocketAddr,
    handshake: Arc<H>,
    desk: Arc<Desk>,
    phase: Mutex<Phase>,
    /// Ends everything when the last handle is dropped.
    end: CancellationToken,
}

enum Phase {
    Online {
        stop: CancellationToken,
        tasks: TaskTracker,
    },
    /// The socket holds the port.
    Offline(TcpSocket),
    Closed,
}

impl<H: Handshake> Endpoint<H> {
    pub(crate) async fn open(
        address: SocketAddr,
        handshake: H,
        desk: Desk,
    ) -> Result<Endpoint<H>, StartError> {
        let side = desk.store.side();
        let socket = serve::reserve(side, address)?;
        let address = socket.local_addr().map_err(|source| StartError::Listen {
            side,
            address,
            source,
        })?;
        let endpoint = Endpoint {
            side,
            address,
            handshake: Arc::new(handshake),
            desk: Arc::new(desk),
            phase: Mutex::new(Phase::Offline(socket)),
            end: CancellationToken::new(),
        };
        endpoint.online().await?;
        Ok(endpoint)
    }

    pub(crate) async fn online(&self) -> Result<(), StartError> {
        let mut phase = self.phase.lock().await;
        match std::mem::replace(&mut *phase, Phase::Closed) {
            Phase::Offline(socket) => {
                let listener = serve::listen(self.side, self.address, socket)?;
                let (stop, tasks) = (self.end.child_token(), TaskTracker::new());
                tasks.spawn(serve::serve(
                    listener,
                    self.handshake.clone(),
                    self.desk.clone(),
                    tasks.clone(),
                    stop.clone(),
                ));
                *phase = Phase::Online { stop, tasks };
            }
            as_it_was => *phase = as_it_was,
        }
        Ok(())
    }

    pub(crate) async fn offline(&self) -> Result<(), StartError> {
        let mut phase = self.phase.lock().await;
        if !matches!(*phase, Phase::Online { .. }) {
            return Ok(());
        }
        end(&mut phase).await;
        *phase = Phase::Offline(self.reserve_again().await?);
        Ok(())
    }

    /// A child that another thread is just starting has a copy of the listening socket from its fork to its exec, and
    /// that long the address stays taken although the socket is closed here.
    async fn reserve_again(&self) -> Result<TcpSocket, StartError> {
        let latest = Instant::now() + FORKED;
        loop {
            match serve::reserve(self.side, self.address) {
                Err(StartError::Listen { source, .. })
                    if source.kind() == ErrorKind::AddrInUse && Instant::now() < latest =>
                {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                outcome => return outcome,
            }
        }
    }

    pub(crate) async fn close(&self) {
        end(&mut *self.phase.lock().await).await;
    }
}

/// Leaves the phase closed, all tasks ended.
async fn end(phase: &mut Phase) {
    if let Phase::Online { stop, tasks } = std::mem::replace(phase, Phase::Closed) {
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

impl<H> Drop for Endpoint<H> {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
