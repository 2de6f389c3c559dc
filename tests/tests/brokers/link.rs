//! The link between tidegate and a broker, which can be cut.
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on to a server until it is cut.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    up: watch::Sender<bool>,
}

impl Link {
    pub(crate) async fn to(server: SocketAddr) -> Link {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (up, seen) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut seen = seen.clone();
                tokio::spawn(async move {
                    if !*seen.borrow_and_update() {
                        return;
                    }
                    let passed = async {
                        let mut to = TcpStream::connect(server).await?;
                        let _ = to.set_nodelay(true);
                        let _ = from.set_nodelay(true);
                        copy_bidirectional(&mut from, &mut to).await
                    };
                    tokio::select! {
                        _ = passed => {}
                        _ = seen.wait_for(|up| !*up) => {}
                    }
                });
            }
        });
        Link { address, up }
    }

    /// Ends every connection, and every new one.
    pub(crate) fn cut(&self) {
        self.up.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.up.send_replace(true);
    }
}
