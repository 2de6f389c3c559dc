//! The listener when the process runs out of file descriptors. Alone in its program: the limit is everybody's.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use axum::Router;
use axum::routing::get;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::sync::Arc;
use std::time::Duration;
use tidegate_http::{Limits, Listener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

async fn answer(stream: &mut TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text))
        .await
        .expect("an answer")
        .unwrap();
    text
}

#[tokio::test]
async fn running_out_of_descriptors_costs_idle_connections_and_nothing_else() {
    let release = Arc::new(Semaphore::new(0));
    let slow = release.clone();
    let app = Router::new().route("/", get(|| async { "here" })).route(
        "/slow",
        get(move || async move {
            slow.acquire().await.unwrap().forget();
            "late"
        }),
    );
    let never = Limits {
        header_timeout: Duration::from_secs(3600),
        ..Limits::default()
    };
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), None, never)
        .await
        .unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = tokio::spawn(listener.serve(app, CancellationToken::new()));

    // Sockets of ours take all descriptors but a few before one of them is connected.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(128);
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut ours = Vec::new();
    while let Ok(socket) = TcpSocket::new_v4() {
        ours.push(socket);
    }
    ours.truncate(ours.len() - 8);

    let mut silent = Vec::new();
    let mut more = ours.split_off(12);
    for socket in ours {
        silent.push(socket.connect(addr).await.unwrap());
    }
    // Eight descriptors, twelve silent peers, and somebody with a question.
    let mut asker = more.pop().unwrap().connect(addr).await.unwrap();
    assert!(answer(&mut asker, "/").await.ends_with("here"));

    // Where all are busy, whoever comes waits until one is done.
    let mut busy = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let mut stream = more.pop().unwrap().connect(addr).await.unwrap();
        busy.spawn(async move { answer(&mut stream, "/slow").await });
    }
    release.add_permits(12);
    while let Some(text) = busy.join_next().await {
        assert!(text.unwrap().ends_with("late"));
    }
    assert!(!serving.is_finished());
}
