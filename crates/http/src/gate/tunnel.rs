//! Connections that were upgraded: bytes both ways, counted apart.
use super::config::OnHoldUpgraded;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tidegate_gate::{Gate, Member, Meter, Running};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// For the 101 to reach the client, and the connections to change hands.
const HANDS_CHANGE: Duration = Duration::from_secs(10);

pub(super) struct Tunnels {
    gate: Gate,
    meter: Arc<Meter>,
    on_hold: OnHoldUpgraded,
    tasks: TaskTracker,
    end: CancellationToken,
}

impl Tunnels {
    pub(super) fn new(member: &Member, on_hold: OnHoldUpgraded) -> Tunnels {
        Tunnels {
            gate: member.gate(),
            meter: member.meter().clone(),
            on_hold,
            tasks: TaskTracker::new(),
            end: CancellationToken::new(),
        }
    }

    /// Joins both ends once they are free. Called while the request is still counted, so that the connection is
    /// counted at every moment.
    pub(super) fn open(&self, client: OnUpgrade, app: OnUpgrade, name: Cow<'static, str>) {
        let connection = self.meter.upgraded(Running {
            name,
            since: std::time::Instant::now(),
        });
        let (gate, on_hold, end) = (self.gate, self.on_hold, self.end.clone());
        self.tasks.spawn(async move {
            let _open = connection;
            let both = async { tokio::try_join!(client, app) };
            let Ok(Ok((client, app))) = tokio::time::timeout(HANDS_CHANGE, both).await else {
                return;
            };
            let (mut client, mut app) = (TokioIo::new(client), TokioIo::new(app));
            let held = async {
                match on_hold {
                    OnHoldUpgraded::Close => gate.closed().await,
                    OnHoldUpgraded::Keep => std::future::pending().await,
                }
            };
            tokio::select! {
                // An end that broke ends both: there is nobody to tell.
                _ = copy_bidirectional(&mut client, &mut app) => {}
                () = held => {}
                () = end.cancelled() => {}
            }
            // A proxy knows no close frame of the protocol inside; the end of the stream is what it can say.
            let goodbye = async { tokio::join!(client.shutdown(), app.shutdown()) };
            let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
        });
    }

    /// Ends all, and waits for them.
    pub(super) async fn end(&self) {
        self.end.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) fn end_on_drop(&self) -> DropGuard {
        self.end.clone().drop_guard()
    }
}
