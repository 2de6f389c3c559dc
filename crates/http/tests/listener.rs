//! The listener against slow, greedy and broken peers.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Extension;
use axum::routing::{get, post};
use http::{Response, StatusCode};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use tidegate_http::{Address, BindError, Limits, Listener, Peer, Tls, raise_descriptor_limit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

struct Server {
    addr: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Each permit lets one answer of `/slow` go.
    release: Arc<Semaphore>,
    /// Told when an answer of `/flood` is given up.
    given_up: Arc<Notify>,
}

/// `/` answers at once, `/slow` when released, `/echo` with the body, `/talk` with each piece as it
/// comes, `/flood` without end, `/peer` who asks.
async fn serve(limits: Limits, tls: Option<Tls>) -> Server {
    let (release, given_up) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let (slow, flood) = (release.clone(), given_up.clone());
    let app = Router::new()
        .route("/", get(|| async { "here" }))
        .route(
            "/slow",
            get(move || async move {
                slow.acquire().await.unwrap().forget();
                "late"
            }),
        )
        .route(
            "/echo",
            post(|body: Body| async {
                match axum::body::to_bytes(body, 1 << 20).await {
                    Ok(bytes) => Ok(bytes),
                    Err(error) => Err((StatusCode::REQUEST_TIMEOUT, format!("{error}"))),
                }
            }),
        )
        .route(
            "/talk",
            post(|body: Body| async { Body::from_stream(body.into_data_stream()) }),
        )
        .route(
            "/flood",
            get(move || async move {
                let guard = TellOnDrop(flood);
                let chunk = Bytes::from(vec![b'x'; 16 * 1024]);
                Response::new(Body::from_stream(futures_util::stream::repeat_with(move || {
                    let _alive = &guard;
                    Ok::<_, std::io::Error>(chunk.clone())
                })))
            }),
        )
        .route(
            "/peer",
            get(|Extension(peer): Extension<Peer>| async move { format!("{:?} {}", peer.addr, peer.tls) }),
        );
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), tls, limits)
        .await
        .unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(listener.serve(app, stop.clone()));
    Server {
        addr,
        stop,
        task,
        release,
        given_up,
    }
}

struct TellOnDrop(Arc<Notify>);
impl Drop for TellOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Sends text, reads to the end of the connection; a reset counts as the end.
async fn exchange(addr: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    rest(&mut stream).await
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buf = [0; 4096];
    loop {
        match timeout(PATIENCE, stream.read(&mut buf))
            .await
            .expect("the connection to end")
        {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&answer).into_owned(),
            Ok(n) => answer.extend_from_slice(&buf[..n]),
        }
    }
}

async fn ask(stream: &mut TcpStream) {
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"here") {
        let mut buf = [0; 512];
        let n = timeout(PATIENCE, stream.read(&mut buf)).await.unwrap().unwrap();
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buf[..n]);
    }
}

fn short() -> Limits {
    let soon = Duration::from_millis(100);
    Limits {
        header_timeout: soon,
        body_timeout: soon,
        write_timeout: soon,
        keep_alive: Duration::from_secs(3600),
        handshake_timeout: soon,
        send_buffer: Some(8192),
        ..Limits::default()
    }
}

/// The same listener with timeouts that never come: the twin of every test of a timeout.
fn patient() -> Limits {
    let never = Duration::from_secs(3600);
    Limits {
        header_timeout: never,
        body_timeout: never,
        write_timeout: never,
        handshake_timeout: never,
        ..short()
    }
}

/// Whether the listener closes a connection on which `text` was sent and nothing more comes.
async fn cuts(limits: Limits, text: &str) -> bool {
    let server = serve(limits, None).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut buf = [0; 4096];
    // Longer than any short timeout; for the twin this is how long nothing must happen.
    let wait = async {
        loop {
            match stream.read(&mut buf).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    timeout(Duration::from_secs(2), wait).await.is_ok()
}

#[tokio::test]
async fn a_peer_that_says_nothing_or_half_a_head_is_cut() {
    for text in [
        "",
        "GET / HT",
        "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        "PRI * HTTP/2.0\r\n\r\n",
    ] {
        assert!(cuts(short(), text).await, "{text:?} was waited for");
    }
    assert!(
        !cuts(patient(), "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await,
        "the twin cuts too"
    );
}

#[tokio::test]
async fn half_a_head_after_a_whole_request_is_cut_too() {
    let server = serve(short(), None).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    ask(&mut stream).await;
    stream.write_all(b"GET / HTTP/1.1\r\nX-Slow: ").await.unwrap();
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_body_that_stops_coming_times_out_and_the_handler_is_told() {
    let server = serve(short(), None).await;
    let text = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhalf";
    let answer = exchange(server.addr, text).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(
        answer.contains("nothing of the request's body came for 100ms"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_body_that_drips_times_out_however_often_a_piece_comes() {
    let server = serve(short(), None).await;
    for (head, piece) in [
        ("Content-Length: 100000", "x"),
        ("Transfer-Encoding: chunked", "1\r\nx\r\n"),
    ] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let text = format!("POST /echo HTTP/1.1\r\nHost: x\r\n{head}\r\nConnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        let mut answer = String::new();
        let drip = async {
            // Until it has had enough.
            loop {
                tick.tick().await;
                if write.write_all(piece.as_bytes()).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let cut = timeout(PATIENCE, async {
            tokio::select! {
                // A reset may take the answer's end with it.
                _ = read.read_to_string(&mut answer) => {}
                () = drip => {}
            }
        });
        cut.await.expect("the listener to end it");
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn in_a_conversation_a_body_may_be_silent_until_the_answer_has_ended() {
    let server = serve(short(), None).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let text = "POST /talk HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut heard = String::new();
    let mut buf = [0; 4096];
    for (next, word) in [("3\r\ntwo\r\n", "one"), ("0\r\n\r\n", "two"), ("", "0\r\n\r\n")] {
        while !heard.contains(word) {
            let n = timeout(PATIENCE, stream.read(&mut buf)).await.unwrap().unwrap();
            assert!(n > 0, "cut after {heard:?}");
            heard.push_str(std::str::from_utf8(&buf[..n]).unwrap());
        }
        // Many times the timeout.
        let silence = timeout(Duration::from_secs(1), stream.read(&mut buf)).await;
        assert!(silence.is_err(), "cut after {heard:?}");
        stream.write_all(next.as_bytes()).await.unwrap();
    }

    // Where the answer has ended, the body has no more than its time.
    let text = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
    assert!(cuts(short(), text).await, "it was waited for");
}

#[tokio::test]
async fn a_peer_that_never_reads_is_cut() {
    async fn cut(limits: Limits, ask: &[u8]) -> bool {
        let server = serve(limits, None).await;
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(ask).await.unwrap();
        timeout(Duration::from_secs(2), server.given_up.notified())
            .await
            .is_ok()
    }
    // Settings without a setting, and a request without a body, by RFC 9113 and RFC 7541.
    let mut http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    http2.extend_from_slice(b"\0\0\x0d\x01\x05\0\0\0\x01\x82\x86\x04\x06/flood\x01\x01x");
    for ask in [b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n", &http2[..]] {
        let text = String::from_utf8_lossy(ask);
        assert!(cut(short(), ask).await, "{text}");
        assert!(!cut(patient(), ask).await, "the twin cuts too: {text}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_keep_alive() {
    let limits = Limits {
        keep_alive: Duration::from_millis(100),
        ..patient()
    };
    let server = serve(limits, None).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    ask(&mut stream).await;
    ask(&mut stream).await;
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_head_that_is_too_large_gets_431() {
    let server = serve(
        Limits {
            buffer: 8192,
            ..short()
        },
        None,
    )
    .await;
    let many: String = (0..200).map(|i| format!("X-{i}: y\r\n")).collect();
    let long = format!("X: {}\r\n", "y".repeat(9000));
    for fields in [many, long] {
        let answer = exchange(server.addr, &format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
}

#[tokio::test]
async fn a_head_may_have_as_many_fields_as_the_limit_says_and_no_more() {
    // Of these two, one is what hyper allows by itself.
    for max_headers in [Limits::default().max_headers, 20] {
        let server = serve(
            Limits {
                max_headers,
                ..short()
            },
            None,
        )
        .await;
        for (fields, status) in [(max_headers, "200"), (max_headers + 1, "431")] {
            // Host is the first.
            let more: String = (1..fields).map(|i| format!("X-{i}: y\r\n")).collect();
            let head = format!("GET / HTTP/1.1\r\nHost: x\r\n{more}\r\n");
            let mut stream = TcpStream::connect(server.addr).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(
                answer,
                *format!("HTTP/1.1 {status}").as_bytes(),
                "{fields} of {max_headers}"
            );
        }
    }
}

#[tokio::test]
async fn idle_connections_never_keep_a_new_one_out() {
    raise_descriptor_limit().unwrap();
    let server = serve(
        Limits {
            max_connections: 64,
            ..patient()
        },
        None,
    )
    .await;
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(TcpStream::connect(server.addr).await.unwrap());
        let mut newcomer = TcpStream::connect(server.addr).await.unwrap();
        timeout(PATIENCE, ask(&mut newcomer))
            .await
            .expect("a place for the newcomer");
        crowd.push(newcomer);
    }
}

#[tokio::test]
async fn busy_connections_are_never_closed_for_a_new_one() {
    let server = serve(
        Limits {
            max_connections: 8,
            ..patient()
        },
        None,
    )
    .await;
    let mut busy = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream
            .write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        busy.push(stream);
    }
    let mut late = TcpStream::connect(server.addr).await.unwrap();
    late.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut one = [0];
    let early = timeout(Duration::from_millis(300), late.read(&mut one)).await;
    assert!(early.is_err(), "it must wait while all places are busy");
    server.release.add_permits(busy.len());
    for mut stream in busy {
        assert!(rest(&mut stream).await.ends_with("late"));
    }
    assert!(rest(&mut late).await.ends_with("here"));
}

#[tokio::test]
async fn two_thousand_connections_are_served_at_once() {
    raise_descriptor_limit().unwrap();
    let server = serve(Limits::default(), None).await;
    let mut all = Vec::new();
    for _ in 0..2048 {
        all.push(TcpStream::connect(server.addr).await.unwrap());
    }
    for stream in &mut all {
        ask(stream).await;
    }
    // All of them are still open: each is asked once more.
    for stream in &mut all {
        ask(stream).await;
    }
}

#[tokio::test]
async fn stopping_finishes_what_is_in_progress_and_closes_what_is_idle() {
    let server = serve(patient(), None).await;
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    ask(&mut idle).await;
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    let mut busy = TcpStream::connect(server.addr).await.unwrap();
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    ask(&mut idle).await;
    server.stop.cancel();
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(rest(&mut silent).await, "");
    server.release.add_permits(1);
    assert!(rest(&mut busy).await.ends_with("late"));
    timeout(PATIENCE, server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test]
async fn stopping_ends_handshakes_and_idle_http2_connections() {
    let (pair, pem) = Pair::new("one.test");
    let server = serve(patient(), Some(pair.load().unwrap())).await;
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    // By then the one before it has been accepted too.
    let client = client_of_tls(&server, "one.test", &pem);
    let url = format!("https://one.test:{}/peer", server.addr.port());
    let answer = client.get(url).send().await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    answer.text().await.unwrap();
    server.stop.cancel();
    assert_eq!(rest(&mut silent).await, "");
    timeout(PATIENCE, server.task).await.unwrap().unwrap();
    // It keeps its connection open, for the next request.
    drop(client);
}

#[tokio::test]
async fn a_taken_port_is_named_with_who_holds_it() {
    let server = serve(short(), None).await;
    let error = Listener::bind(&Address::Tcp(server.addr), None, Limits::default())
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, BindError::Taken { holder: Some(_), .. }),
        "{error:?}"
    );
    assert!(text.contains(&server.addr.to_string()), "{text}");
    assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
    let far: Address = "192.0.2.1:80".parse().unwrap();
    let error = Listener::bind(&far, None, Limits::default()).await.unwrap_err();
    assert!(error.to_string().contains("192.0.2.1:80"), "{error}");
}

#[tokio::test]
async fn a_unix_socket_is_its_owners_only_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let address = Address::Unix(path.clone());
    // What a killed process leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

    let listener = Listener::bind(&address, None, short()).await.unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let taken = Listener::bind(&address, None, short()).await.unwrap_err();
    assert!(
        taken
            .to_string()
            .contains(&format!("(pid {})", std::process::id())),
        "{taken}"
    );

    let stop = CancellationToken::new();
    let app = Router::new().route(
        "/",
        get(|Extension(p): Extension<Peer>| async move { p.is_loopback().to_string() }),
    );
    let task = tokio::spawn(listener.serve(app, stop.clone()));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("true"), "{answer}");
    stop.cancel();
    timeout(PATIENCE, task).await.unwrap().unwrap();
    assert!(!path.exists());

    std::fs::write(&path, "not a socket").unwrap();
    let error = Listener::bind(&address, None, short()).await.unwrap_err();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a socket");
}

struct Pair {
    dir: tempfile::TempDir,
}

impl Pair {
    fn new(name: &str) -> (Pair, String) {
        let pair = Pair {
            dir: tempfile::tempdir().unwrap(),
        };
        let pem = pair.renew(name);
        (pair, pem)
    }
    fn renew(&self, name: &str) -> String {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        // Renamed into place, as a mounted secret is.
        for (file, text) in [
            ("key", made.signing_key.serialize_pem()),
            ("cert", made.cert.pem()),
        ] {
            std::fs::write(self.dir.path().join("new"), text).unwrap();
            std::fs::rename(self.dir.path().join("new"), self.dir.path().join(file)).unwrap();
        }
        made.cert.pem()
    }
    fn load(&self) -> Result<Tls, tidegate_http::TlsError> {
        Tls::load(self.dir.path().join("cert"), self.dir.path().join("key"))
    }
}

fn client_of_tls(server: &Server, name: &str, pem: &str) -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(pem.as_bytes()).unwrap()])
        .resolve(name, server.addr)
        .timeout(PATIENCE)
        .build()
        .unwrap()
}

async fn get_over_tls(
    server: &Server,
    name: &str,
    pem: &str,
) -> Result<(http::Version, String), reqwest::Error> {
    let client = client_of_tls(server, name, pem);
    let url = format!("https://{name}:{}/peer", server.addr.port());
    let answer = client.get(url).send().await?;
    Ok((answer.version(), answer.text().await?))
}

#[tokio::test]
async fn a_certificate_is_read_again_when_it_changes_and_kept_when_it_cannot_be() {
    let (pair, first) = Pair::new("one.test");
    let tls = pair.load().unwrap();
    assert!(tls.names("one.test") && !tls.names("two.test") && !tls.names("not a name"));
    let server = serve(patient(), Some(tls.clone())).await;
    let (version, text) = get_over_tls(&server, "one.test", &first).await.unwrap();
    assert_eq!(version, http::Version::HTTP_2);
    assert!(text.ends_with("true"), "{text}");

    let second = pair.renew("two.test");
    get_over_tls(&server, "two.test", &second).await.unwrap();
    assert!(get_over_tls(&server, "one.test", &first).await.is_err());
    assert!(tls.names("two.test") && !tls.names("one.test"));

    std::fs::write(pair.dir.path().join("key"), "").unwrap();
    get_over_tls(&server, "two.test", &second).await.unwrap();
}

#[tokio::test]
async fn tls_files_that_cannot_be_used_are_named_without_their_content() {
    let (pair, _) = Pair::new("one.test");
    let (other, _) = Pair::new("two.test");
    let cert = pair.dir.path().join("cert");
    let key = pair.dir.path().join("key");
    let error = Tls::load(&cert, other.dir.path().join("key"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("does not belong to"), "{error}");
    let error = Tls::load(pair.dir.path().join("absent"), &key)
        .unwrap_err()
        .to_string();
    assert!(error.contains("absent"), "{error}");
    let secret = std::fs::read_to_string(&key).unwrap();
    let broken = secret.replace("-----END", "----END");
    std::fs::write(&key, &broken).unwrap();
    let error = pair.load().unwrap_err().to_string();
    assert!(error.contains("key"), "{error}");
    for line in secret.lines().filter(|l| !l.contains('-')) {
        assert!(!error.contains(line), "the key leaks");
    }
}

#[tokio::test]
async fn a_peer_that_drags_out_its_handshake_is_cut() {
    let (pair, _) = Pair::new("one.test");
    let server = serve(short(), Some(pair.load().unwrap())).await;
    assert_eq!(exchange(server.addr, "").await, "");
    // A plain request to a TLS port ends with an alert, not with an answer.
    assert!(
        !exchange(server.addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .contains("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn http2_without_tls_is_spoken_too() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = serve(patient(), None).await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .timeout(PATIENCE)
        .build()
        .unwrap();
    let answer = client
        .get(format!("http://{}/", server.addr))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    assert_eq!(answer.text().await.unwrap(), "here");
}
