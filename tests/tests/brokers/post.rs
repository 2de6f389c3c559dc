//! A destination that takes its time: an HTTP endpoint that answers each event when it likes.
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// One event per POST; remembers each body and when it came.
#[derive(Clone)]
pub(crate) struct Post {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<(Instant, String)>>>,
    micros: Arc<AtomicU64>,
    status: Arc<AtomicUsize>,
    refused: Arc<Mutex<Option<String>>>,
}

impl Post {
    /// Each answer takes `delay`.
    pub(crate) async fn start(delay: Duration) -> Post {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let post = Post {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            micros: Arc::default(),
            status: Arc::new(AtomicUsize::new(200)),
            refused: Arc::default(),
        };
        post.set_delay(delay);
        let server = post.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(stream));
            }
        });
        post
    }

    pub(crate) fn set_delay(&self, delay: Duration) {
        self.micros.store(delay.as_micros() as u64, SeqCst);
    }

    /// What it answers from now on.
    pub(crate) fn answer(&self, status: usize) {
        self.status.store(status, SeqCst);
    }

    /// Answers 422 to this body from now on.
    pub(crate) fn refuse(&self, body: &str) {
        *self.refused.lock().unwrap() = Some(body.to_owned());
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The bodies that were answered with 200, in order.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .map(|(_, body)| body.clone())
            .collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// When the first event after a moment came.
    pub(crate) fn first_after(&self, moment: Instant) -> Option<Instant> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|(at, _)| *at).find(|at| *at > moment)
    }

    async fn serve(self, stream: TcpStream) -> std::io::Result<()> {
        let _ = stream.set_nodelay(true);
        let mut stream = BufReader::new(stream);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await? == 0 {
                    return Ok(());
                }
                let line = line.trim_end().to_ascii_lowercase();
                if let Some(n) = line.strip_prefix("content-length:") {
                    length = n.trim().parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            let arrived = Instant::now();
            let micros = self.micros.load(SeqCst);
            if micros > 0 {
                tokio::time::sleep(Duration::from_micros(micros)).await;
            }
            let body = String::from_utf8_lossy(&body).into_owned();
            let status = match self.refused.lock().unwrap().as_deref() == Some(body.trim()) {
                true => 422,
                false => self.status.load(SeqCst),
            };
            if status == 200 {
                self.seen.lock().unwrap().push((arrived, body));
            }
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await?;
        }
    }
}
