#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
//! A raw socket that answers with the bytes it is told to: what a store double would be too well-behaved to do.
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// One request as it came over the wire.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) line: String,
    /// Lower-case names.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    pub(super) connection: usize,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

pub(super) enum Reply {
    Bytes(Vec<u8>),
    Hang,
    Reset,
}

/// A reply with a body, and more headers.
pub(super) fn reply(status: u16, headers: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Bytes(
        format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{headers}\r\n{body}").into_bytes(),
    )
}

pub(super) struct Stub {
    pub(super) address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Stub {
    pub(super) async fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (log, answer) = (requests.clone(), Arc::new(answer));
        tokio::spawn(async move {
            let mut connection = 0;
            while let Ok((stream, _)) = listener.accept().await {
                connection += 1;
                tokio::spawn(serve(stream, connection, log.clone(), answer.clone()));
            }
        });
        Stub { address, requests }
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(
    stream: TcpStream,
    connection: usize,
    log: Arc<Mutex<Vec<Request>>>,
    answer: Arc<impl Fn(&Request) -> Reply>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_owned());
        }
        let headers: Vec<(String, String)> = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = headers
            .iter()
            .find(|(n, _)| n == "content-length")
            .map_or(0, |(_, v)| v.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let request = Request {
            line: lines[0].clone(),
            headers,
            body: String::from_utf8(body).unwrap(),
            connection,
        };
        let reply = answer(&request);
        log.lock().unwrap().push(request);
        match reply {
            Reply::Bytes(bytes) => stream.write_all(&bytes).await.unwrap_or(()),
            Reply::Hang => std::future::pending().await,
            Reply::Reset => {
                stream.get_ref().set_zero_linger().unwrap();
                return;
            }
        }
    }
}
