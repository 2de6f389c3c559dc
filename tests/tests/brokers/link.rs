//! The link between tidegate and a broker, which can be cut.
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
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

/// A link that passes everything but such an answer: instead of it the client gets a reset, as from a server that closes a
/// connection on which it has not read everything. It is told how many bytes the client has sent, and the answer.
pub(crate) async fn that_loses(server: SocketAddr, lost: fn(usize, &[u8]) -> bool) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass(client, server, lost));
        }
    });
    address
}

async fn pass(mut client: TcpStream, server: SocketAddr, lost: fn(usize, &[u8]) -> bool) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let sent = AtomicUsize::new(0);
    let was_lost = {
        let (mut asks, mut hears) = client.split();
        let (mut answers, mut asked) = server.split();
        let forth = async {
            let mut piece = vec![0; 64 << 10];
            loop {
                let n = asks.read(&mut piece).await?;
                if n == 0 {
                    return Ok(());
                }
                sent.fetch_add(n, Relaxed);
                // A server that reads no more may have answered before.
                if asked.write_all(&piece[..n]).await.is_err() {
                    return pending::<io::Result<()>>().await;
                }
            }
        };
        let back = async {
            let mut piece = vec![0; 64 << 10];
            loop {
                match answers.read(&mut piece).await? {
                    0 => return Ok::<_, io::Error>(false),
                    n if lost(sent.load(Relaxed), &piece[..n]) => return Ok(true),
                    n => hears.write_all(&piece[..n]).await?,
                }
            }
        };
        tokio::select! {
            gone = forth => return gone,
            ended = back => ended?,
        }
    };
    if was_lost {
        client.set_zero_linger()?;
    }
    Ok(())
}
