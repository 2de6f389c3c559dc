//! Requests that two readers could read in two ways: refused, or forwarded in the one way that we read them.
use crate::support::{App, Gated, Raw, serve};
use std::sync::{Arc, Mutex};
use tidegate_http::OnHold;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// An app that keeps every byte it is sent, and answers each connection once.
async fn recorder() -> (std::net::SocketAddr, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let all = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let all = all.clone();
            tokio::spawn(async move {
                let mut stream = stream;
                let mut buf = [0; 4096];
                let mut answered = false;
                while let Ok(n) = stream.read(&mut buf).await {
                    if n == 0 {
                        break;
                    }
                    all.lock().unwrap().push_str(&String::from_utf8_lossy(&buf[..n]));
                    if !answered {
                        answered = true;
                        let _ = stream
                            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                            .await;
                    }
                }
            });
        }
    });
    (addr, seen)
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused_and_the_app_never_hears_of_it() {
    let (app, seen) = recorder().await;
    let gated = Gated::before(app, OnHold::Serve).await;
    for (what, request) in [
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
        ),
        (
            "a list of lengths",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc",
        ),
        (
            "a signed length",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
        ),
        (
            "a negative length",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\nabc",
        ),
        (
            "a length in hex",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x3\r\n\r\nabc",
        ),
        (
            "a length beyond all",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\nabc",
        ),
        (
            "another coding",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        ),
        (
            "chunks, but not last",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        ),
        (
            "a coding before chunks",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "two codings",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "almost chunks",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a coding with a form feed",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunks in HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a space before the colon",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\nabc",
        ),
        (
            "a folded header",
            "GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n  2\r\n\r\n",
        ),
        (
            "a folded coding",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a line that begins with space",
            "GET / HTTP/1.1\r\n Host: x\r\n\r\n",
        ),
        (
            "a nul in a value",
            "GET / HTTP/1.1\r\nHost: x\r\nX-A: a\0b\r\n\r\n",
        ),
        (
            "a bare return in a value",
            "GET / HTTP/1.1\r\nHost: x\r\nX-A: a\rX-B: b\r\n\r\n",
        ),
        (
            "an underscore",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer_Encoding: chunked\r\n\r\n",
        ),
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (
            "another host in the target",
            "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
        ),
        (
            "a user in the target",
            "GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n",
        ),
        ("a space in the target", "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n"),
        (
            "a version of three numbers",
            "GET / HTTP/1.1.1\r\nHost: x\r\n\r\n",
        ),
        ("CONNECT", "CONNECT app:443 HTTP/1.1\r\nHost: app:443\r\n\r\n"),
    ] {
        let answer = Raw::exchange(gated.addr, request).await;
        let status = answer.get(9..12).unwrap_or_default();
        assert!(
            matches!(status, "400" | "405"),
            "{what}: expected 400 or 405, got {answer:?}"
        );
        assert_eq!(status == "405", what == "CONNECT");
    }
    assert_eq!(*seen.lock().unwrap(), "");
    gated.until_in_flight(0).await;
}

#[tokio::test]
async fn bad_chunks_never_become_a_whole_request() {
    for (what, chunks) in [
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("a size with a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a size in hex notation", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a size beyond all", "fffffffffffffffff\r\nabc"),
        ("a chunk that is longer than its size", "2\r\nabc\r\n0\r\n\r\n"),
        ("a chunk that ends without a line", "3\r\nabc0\r\n\r\n"),
        ("a bare return after the size", "3\rabc\r\n0\r\n\r\n"),
    ] {
        let (app, seen) = recorder().await;
        let gated = Gated::before(app, OnHold::Serve).await;
        let request = format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        Raw::exchange(gated.addr, &request).await;
        gated.until_in_flight(0).await;
        let seen = seen.lock().unwrap().clone();
        assert!(
            !seen.contains("0\r\n\r\n"),
            "{what}: the app took it for whole: {seen:?}"
        );
    }
}

#[tokio::test]
async fn what_follows_a_request_is_read_as_the_next_one_and_sent_as_such() {
    let app = App::default();
    let gated = Gated::before(serve(app.router()).await.addr, OnHold::Serve).await;
    // To a reader that believed the length, the second request would be the body of the first.
    let smuggled = "GET /headers HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n{smuggled}");
    let answers = Raw::exchange(gated.addr, &request).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    gated.until_in_flight(0).await;
    assert_eq!(gated.status().events, 2, "both were counted");
    assert_eq!(app.seen(), 2, "and both were requests to the app");
}

#[tokio::test]
async fn a_length_beside_chunks_goes_no_further() {
    for request in [
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 30\r\nConnection: close\r\n\r\n",
    ] {
        let (app, seen) = recorder().await;
        let gated = Gated::before(app, OnHold::Serve).await;
        Raw::exchange(gated.addr, &format!("{request}3\r\nabc\r\n0\r\n\r\n")).await;
        gated.until_in_flight(0).await;
        let seen = seen.lock().unwrap().clone();
        assert!(!seen.to_lowercase().contains("content-length"), "{seen}");
        assert!(
            seen.is_empty() || seen.ends_with("3\r\nabc\r\n0\r\n\r\n"),
            "{seen}"
        );
    }
}

#[tokio::test]
async fn chunks_are_framed_anew() {
    let (app, seen) = recorder().await;
    let gated = Gated::before(app, OnHold::Serve).await;
    let request = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\nConnection: close\r\n\r\n\
                   0003;a=\"1\r\";b\r\nabc\r\n0\r\n\r\n"
        .replace("\"1\r\"", "1");
    let answer = Raw::exchange(gated.addr, &request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = seen.lock().unwrap().clone();
    assert!(seen.contains("transfer-encoding: chunked\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{seen}");
    assert!(!seen.to_lowercase().contains("content-length"), "{seen}");
}

#[tokio::test]
async fn heads_beyond_the_bound_are_refused() {
    let (app, seen) = recorder().await;
    let gated = Gated::before(app, OnHold::Serve).await;
    let large = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(200));
    for request in [large, many] {
        let mut raw = gated.connect().await;
        // It may hang up before all has been said.
        let _ = raw.stream.write_all(request.as_bytes()).await;
        let answer = raw.rest().await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
            "{answer}"
        );
    }
    assert_eq!(*seen.lock().unwrap(), "");
}
