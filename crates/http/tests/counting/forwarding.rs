//! What passes through the HTTP gate, and how.
use crate::support::{App, Gated, Raw, client, serve, until};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use tidegate_gate::State;
use tidegate_http::OnHold;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

async fn plain() -> (App, Gated) {
    let app = App::default();
    let server = serve(app.router()).await;
    (app, Gated::before(server.addr, OnHold::Serve).await)
}

/// A body whose pieces the test sends when it wants to.
fn body() -> (
    mpsc::UnboundedSender<http_body::Frame<Bytes>>,
    impl http_body::Body<Data = Bytes, Error = Infallible> + Send + Unpin,
) {
    let (tx, mut rx) = mpsc::unbounded_channel();
    let frames = futures_util::stream::poll_fn(move |cx| rx.poll_recv(cx).map(|f| f.map(Ok)));
    (tx, StreamBody::new(frames))
}
fn piece(text: &'static str) -> http_body::Frame<Bytes> {
    http_body::Frame::data(Bytes::from_static(text.as_bytes()))
}

async fn http2<B>(gated: &Gated) -> hyper::client::conn::http2::SendRequest<B>
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(gated.addr).await.unwrap();
    let (send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    send
}

async fn http1<B>(gated: &Gated) -> hyper::client::conn::http1::SendRequest<B>
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(gated.addr).await.unwrap();
    let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

#[tokio::test]
async fn bodies_stream_both_ways_in_http1_and_http2_and_nothing_is_kept_back() {
    let (app, gated) = plain().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (tx, body) = body();
        let uri = match version {
            Version::HTTP_2 => gated.url("/echo"),
            _ => "/echo".into(),
        };
        let request = Request::post(uri)
            .header("host", gated.addr.to_string())
            .body(body)
            .unwrap();
        tx.send(piece("first")).unwrap();
        let mut answer = match version {
            Version::HTTP_2 => http2(&gated).await.send_request(request).await.unwrap(),
            _ => http1(&gated).await.send_request(request).await.unwrap(),
        };
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.version(), version);
        // Each piece comes back before the next is sent.
        for text in ["first", "second", "third"] {
            if text != "first" {
                tx.send(piece(text)).unwrap();
            }
            let frame = answer.body_mut().frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), text);
            assert_eq!(gated.status().in_flight, 2, "the answer and the upload");
        }
        drop(tx);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "");
        gated.until_in_flight(0).await;
        until("the app is done", || app.running() == 0).await;
    }
    assert_eq!(gated.status().events, 2);
}

#[tokio::test]
async fn a_large_body_comes_through_whole() {
    let (_app, gated) = plain().await;
    let sent: Vec<u8> = (0..5_000_000u32).map(|n| n as u8).collect();
    let answer = client()
        .post(gated.url("/echo"))
        .body(sent.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.bytes().await.unwrap(), sent);
}

#[tokio::test]
async fn methods_paths_queries_and_statuses_pass_as_they_are() {
    let (_app, gated) = plain().await;
    let client = client();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"] {
        let url = gated.url("/headers?a=%20b&a=c//d");
        let answer = client.request(method.parse().unwrap(), url).send().await.unwrap();
        let seen = answer.text().await.unwrap();
        assert!(
            seen.starts_with(&format!("{method} /headers?a=%20b&a=c//d HTTP/1.1\n")),
            "{seen}"
        );
    }
    for code in [200, 204, 301, 304, 404, 418, 500, 503] {
        let answer = client
            .get(gated.url(&format!("/status/{code}")))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), code);
    }
    let options = Raw::exchange(
        gated.addr,
        "OPTIONS * HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(options.starts_with("HTTP/1.1 "), "{options}");
    gated.until_in_flight(0).await;
}

#[tokio::test]
async fn the_answer_to_head_has_the_length_and_no_body() {
    let (_app, gated) = plain().await;
    let answer = Raw::exchange(
        gated.addr,
        "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.contains("content-length: 5\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request() {
    let (app, gated) = plain().await;
    let mut raw = gated.connect().await;
    for _ in 0..3 {
        raw.say("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
        raw.hear("hello").await;
        raw.forget();
    }
    raw.say("GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
        .await;
    assert!(raw.rest().await.ends_with("hello"));
    assert_eq!(app.seen(), 4);
}

#[tokio::test]
async fn a_client_of_http_1_0_is_served_and_its_connection_ends() {
    let (_app, gated) = plain().await;
    let answer = Raw::exchange(gated.addr, "GET /headers HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.contains("GET /headers HTTP/1.1\n"), "{answer}");
    assert!(answer.contains("\nhost: 127.0.0.1:"), "{answer}");
}

/// A header as the app saw it: what `/headers` answers with stands behind our own head.
fn header(seen: &str, name: &str) -> Vec<String> {
    let wanted = format!("{name}: ");
    let seen = seen.split_once("\r\n\r\n").map_or(seen, |(_, body)| body);
    seen.lines()
        .filter_map(|l| l.trim_end().strip_prefix(&wanted))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_app_learns_who_asks_and_under_which_name() {
    let (_app, gated) = plain().await;
    let seen = Raw::exchange(
        gated.addr,
        "GET /headers HTTP/1.1\r\nHost: shop.example:8443\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(header(&seen, "host"), ["shop.example:8443"]);
    assert_eq!(header(&seen, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(header(&seen, "x-forwarded-proto"), ["http"]);
    assert_eq!(header(&seen, "x-forwarded-host"), ["shop.example:8443"]);

    let seen = Raw::exchange(
        gated.addr,
        "GET /headers HTTP/1.1\r\nHost: app\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(
        header(&seen, "x-forwarded-for"),
        ["203.0.113.7, 10.0.0.1, 10.0.0.2, 127.0.0.1"],
        "we are one more on the way"
    );
    assert_eq!(
        header(&seen, "x-forwarded-proto"),
        ["https"],
        "the balancer knows"
    );
    assert_eq!(header(&seen, "x-forwarded-host"), ["shop.example"]);
}

#[tokio::test]
async fn in_http2_and_in_a_target_of_absolute_form_the_host_is_the_authority() {
    let (_app, gated) = plain().await;
    let request = Request::get("http://shop.example/headers")
        .body(http_body_util::Empty::<Bytes>::new())
        .unwrap();
    let answer = http2(&gated).await.send_request(request).await.unwrap();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    let seen = String::from_utf8_lossy(&text);
    assert!(seen.starts_with("GET /headers HTTP/1.1\n"), "{seen}");
    assert_eq!(header(&seen, "host"), ["shop.example"]);

    let seen = Raw::exchange(
        gated.addr,
        "GET http://shop.example/headers HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(seen.contains("GET /headers HTTP/1.1\n"), "{seen}");
    assert_eq!(header(&seen, "host"), ["shop.example"]);
}

#[tokio::test]
async fn headers_for_the_next_hop_only_go_no_further() {
    let (_app, gated) = plain().await;
    let seen = Raw::exchange(
        gated.addr,
        "GET /headers HTTP/1.1\r\nHost: app\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nX-Yours: 2\r\nKeep-Alive: 5\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic Zm9v\r\nTE: gzip\r\nUpgrade: websocket\r\n\r\n",
    )
    .await;
    for gone in [
        "connection",
        "x-mine",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
    ] {
        assert!(header(&seen, gone).is_empty(), "{gone} in {seen}");
    }
    assert_eq!(header(&seen, "x-yours"), ["2"]);

    // And back: what a raw app says of its connection is not said of ours.
    let app = answers_with(
        "HTTP/1.1 200 OK\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nX-Yours: 2\r\nKeep-Alive: timeout=5\r\n\
         Content-Length: 2\r\n\r\nok",
    )
    .await;
    let gated = Gated::before(app, OnHold::Serve).await;
    let mut raw = gated.connect().await;
    raw.say("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    let answer = raw.hear("ok").await;
    assert!(answer.contains("x-yours: 2\r\n"), "{answer}");
    for gone in ["connection", "x-mine", "keep-alive"] {
        assert!(!answer.contains(gone), "{gone} in {answer}");
    }
}

#[tokio::test]
async fn naming_host_or_length_as_of_this_hop_does_not_drop_them() {
    let (_app, gated) = plain().await;
    let seen = Raw::exchange(
        gated.addr,
        "POST /headers HTTP/1.1\r\nHost: app\r\nContent-Length: 3\r\nConnection: close, host, content-length\r\n\r\nabc",
    )
    .await;
    assert_eq!(header(&seen, "host"), ["app"]);
    assert!(seen.ends_with("3 bytes"), "{seen}");
}

/// A raw app that gives every connection's first request the same answer and reads on.
async fn answers_with(answer: &'static str) -> std::net::SocketAddr {
    use tokio::io::AsyncWriteExt;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut raw = Raw { stream, read: vec![] };
                raw.hear("\r\n\r\n").await;
                raw.stream.write_all(answer.as_bytes()).await.unwrap();
                raw.rest().await;
            });
        }
    });
    addr
}

#[tokio::test]
async fn trailers_pass_in_http1_to_a_client_that_takes_them() {
    let app = answers_with(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n",
    )
    .await;
    let gated = Gated::before(app, OnHold::Serve).await;
    let answer = Raw::exchange(
        gated.addr,
        "GET / HTTP/1.1\r\nHost: app\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n",
    )
    .await;
    assert!(
        answer.contains("5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n"),
        "{answer}"
    );
    gated.until_in_flight(0).await;
}

#[tokio::test]
async fn grpc_goes_to_the_app_in_http2_with_its_trailers_both_ways() {
    // An app that takes HTTP/2 only, echoes the body and ends with trailers, as gRPC does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                assert_eq!(request.version(), Version::HTTP_2);
                assert_eq!(request.headers()["te"], "trailers");
                assert_eq!(request.headers()["x-forwarded-host"], "shop.example");
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let body = request.into_body().with_trailers(async { Some(Ok(trailers)) });
                Ok::<_, Infallible>(http::Response::new(body))
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    let gated = Gated::before(addr, OnHold::Serve).await;
    let (tx, body) = body();
    let request = Request::post("http://shop.example/orders.Orders/Watch")
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    tx.send(piece("one")).unwrap();
    let mut answer = http2(&gated).await.send_request(request).await.unwrap();
    for text in ["one", "two"] {
        if text == "two" {
            tx.send(piece("two")).unwrap();
        }
        let frame = answer.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
    }
    drop(tx);
    let trailers = answer
        .body_mut()
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_trailers()
        .unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    drop(answer);
    gated.until_in_flight(0).await;
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_to_go_on_is_told_when_the_app_reads() {
    let (_app, gated) = plain().await;
    let mut raw = gated.connect().await;
    raw.say("POST /echo HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: 4\r\nConnection: close\r\n\r\n")
        .await;
    raw.hear("100 Continue").await;
    raw.say("body").await;
    assert!(raw.rest().await.contains("\r\nbody\r\n"));
}

#[tokio::test]
async fn an_app_that_is_not_there_is_a_502_and_counts_down() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let gated = Gated::before(nobody, OnHold::Serve).await;
    let answer = client().post(gated.url("/")).body("x").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(
        answer.text().await.unwrap(),
        "the app behind this gate takes no connections\n"
    );
    gated.until_in_flight(0).await;
    assert_eq!(
        gated.state(),
        State::Running,
        "the app's health is not the gate's"
    );
}

#[tokio::test]
async fn an_app_that_hangs_up_is_a_502_and_counts_down() {
    let app = App::default();
    let gated = Gated::before(serve(app.router()).await.addr, OnHold::Serve).await;
    let answer = client().post(gated.url("/panic")).body("x").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    gated.until_in_flight(0).await;
    assert_eq!(app.seen(), 1, "what may have had an effect is not sent twice");
}

#[tokio::test]
async fn a_kept_connection_that_the_app_closed_costs_a_safe_request_nothing() {
    use tokio::io::AsyncWriteExt;
    // Answers one request on each connection and closes it at the moment when the next one is on its way.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut raw = Raw { stream, read: vec![] };
                raw.hear("\r\n\r\n").await;
                raw.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                raw.forget();
                raw.hear("GET").await;
                let _ = raw.stream.shutdown().await;
            });
        }
    });
    let gated = Gated::before(addr, OnHold::Serve).await;
    for _ in 0..20 {
        let answer = client().get(gated.url("/")).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "ok");
    }
}

/// An app that does `then` with each connection once the first head has come over it.
async fn app_that<F>(then: impl Fn(Raw) -> F + Send + 'static) -> std::net::SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut raw = Raw { stream, read: vec![] };
            raw.hear("\r\n\r\n").await;
            tokio::spawn(then(raw));
        }
    });
    addr
}

#[tokio::test]
async fn a_kept_connection_that_the_app_has_closed_is_not_used_for_what_is_not_sent_twice() {
    use tokio::io::AsyncWriteExt;
    let (closed, mut has_closed) = mpsc::unbounded_channel();
    let addr = app_that(move |mut raw| {
        let closed = closed.clone();
        async move {
            raw.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            raw.stream.shutdown().await.unwrap();
            closed.send(()).unwrap();
            raw.rest().await;
        }
    })
    .await;
    let gated = Gated::before(addr, OnHold::Serve).await;
    let client = client();
    for _ in 0..20 {
        let answer = client.post(gated.url("/")).body("x").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.unwrap(), "ok");
        has_closed.recv().await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_given_to_nobody() {
    let addr = app_that(|mut raw| async move {
        let twice =
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
        raw.say(twice).await;
        raw.rest().await;
    })
    .await;
    let gated = Gated::before(addr, OnHold::Serve).await;
    let client = client();
    for _ in 0..20 {
        let answer = client.get(gated.url("/")).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "ok");
    }
}

#[tokio::test]
async fn an_upload_goes_on_while_nobody_reads_its_answer() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    // More than all buffers on the way hold.
    const MUCH: usize = 32 << 20;
    let (uploaded, has_uploaded) = tokio::sync::oneshot::channel();
    let uploaded = std::sync::Mutex::new(Some(uploaded));
    let addr = app_that(move |raw| {
        let uploaded = uploaded.lock().unwrap().take().unwrap();
        async move {
            let already = raw.read.len() - raw.text().find("\r\n\r\n").unwrap() - 4;
            let (mut read, mut write) = raw.stream.into_split();
            let answers = async {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n");
                write.write_all(head.as_bytes()).await.unwrap();
                write.write_all(&vec![b'y'; MUCH]).await.unwrap();
            };
            let reads = async {
                let mut left = MUCH - already;
                let mut buf = vec![0; 1 << 16];
                while left > 0 {
                    left -= read.read(&mut buf).await.unwrap();
                }
                uploaded.send(()).unwrap();
            };
            tokio::join!(answers, reads);
            // Open for as long as the answer is on its way.
            let _ = read.read(&mut [0]).await;
        }
    })
    .await;
    let gated = Gated::before(addr, OnHold::Serve).await;
    let mut raw = gated.connect().await;
    raw.say(&format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {MUCH}\r\n\r\n"
    ))
    .await;
    raw.hear("\r\n\r\ny").await;
    // Not a byte more is read before all has been said.
    let told = async {
        raw.stream.write_all(&vec![b'x'; MUCH]).await.unwrap();
        has_uploaded.await.unwrap();
    };
    tokio::time::timeout(crate::support::PATIENCE, told)
        .await
        .expect("the upload waits for its answer to be read");
    assert_eq!(gated.status().in_flight, 1);
    let mut left = MUCH - (raw.read.len() - raw.text().find("\r\n\r\n").unwrap() - 4);
    let mut buf = vec![0; 1 << 16];
    while left > 0 {
        left -= raw.stream.read(&mut buf).await.unwrap();
    }
    gated.until_in_flight(0).await;
}
