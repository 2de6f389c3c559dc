//! What no HTTP library sends: resets, half answers, answers without end.
use crate::serve::Answer;
use bytes::Bytes;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that can be broken on purpose.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

/// How a connection goes on by hand.
pub(crate) enum Sabotage {
    Hang,
    /// These bytes, then a TCP reset.
    Reset(Vec<u8>),
    /// These bytes, then an orderly end.
    Close(Vec<u8>),
    Endless,
    Drip {
        bytes: Vec<u8>,
        every: Duration,
    },
}

/// Returns when it is done with the connection, or when the client left; dropped in between, the connection closes.
pub(crate) async fn perform<W: Wire>(sabotage: Sabotage, mut wire: W) {
    // A failed write means that the client left, which ends every one of these acts.
    let _ = match sabotage {
        Sabotage::Hang => until_the_client_leaves(&mut wire).await,
        Sabotage::Reset(bytes) => {
            let written = send(&mut wire, &bytes).await;
            // With a linger time of zero, the close that follows is a reset.
            let _ = wire.tcp().set_zero_linger();
            written
        }
        Sabotage::Close(bytes) => {
            let written = send(&mut wire, &bytes).await;
            let _ = wire.shutdown().await;
            written
        }
        Sabotage::Endless => endless(&mut wire).await,
        Sabotage::Drip { bytes, every } => drip(&mut wire, &bytes, every).await,
    };
}

async fn send<W: Wire>(wire: &mut W, bytes: &[u8]) -> std::io::Result<()> {
    wire.write_all(bytes).await?;
    wire.flush().await
}

async fn until_the_client_leaves<W: Wire>(wire: &mut W) -> std::io::Result<()> {
    let mut ignored = [0_u8; 1024];
    while wire.read(&mut ignored).await? > 0 {}
    Ok(())
}

async fn endless<W: Wire>(wire: &mut W) -> std::io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\na\r\n{\"data\":\"x\r\n";
    send(wire, head.as_bytes()).await?;
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    loop {
        send(wire, chunk.as_bytes()).await?;
    }
}

async fn drip<W: Wire>(wire: &mut W, bytes: &[u8], every: Duration) -> std::io::Result<()> {
    for byte in bytes {
        send(wire, &[*byte]).await?;
        tokio::time::sleep(every).await;
    }
    wire.shutdown().await
}

/// The bytes of an answer: head and body.
pub(crate) fn render(answer: &Answer) -> (Vec<u8>, Bytes) {
    let mut head = String::new();
    // Writing to a String cannot fail.
    let _ = write!(head, "HTTP/1.1 {}\r\n", answer.status);
    for (name, value) in &answer.headers {
        let _ = write!(head, "{name}: {}\r\n", value.to_str().unwrap_or_default());
    }
    let _ = write!(
        head,
        "content-length: {}\r\nconnection: close\r\n\r\n",
        answer.body.len()
    );
    (head.into_bytes(), answer.body.clone())
}
