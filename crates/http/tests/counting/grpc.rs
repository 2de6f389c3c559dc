//! The layer around a real tonic service: a call is counted until its trailers, where gRPC says how it went.
use crate::support::{anywhere, client, until};
use bytes::{Buf, BufMut, Bytes};
use futures_util::{Stream, StreamExt};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use tidegate_gate::Gate;
use tidegate_http::{CountLayer, Limits, Listener, RequestBody};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tower::{Layer, service_fn};

/// Messages as they are: what protobuf would make of them is nothing to a count.
#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Plain;
    type Decoder = Plain;
    fn encoder(&mut self) -> Plain {
        Plain
    }
    fn decoder(&mut self) -> Plain {
        Plain
    }
}
impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.put(item);
        Ok(())
    }
}
impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buf.copy_to_bytes(buf.remaining())))
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// As `tonic-build` writes it for a service with three methods. Each permit lets one message, or the end, go.
async fn orders(
    leave: Arc<Semaphore>,
    request: Request<RequestBody>,
) -> Result<Response<tonic::body::Body>, Infallible> {
    let mut grpc = tonic::server::Grpc::new(Plain);
    let next = move |leave: Arc<Semaphore>| async move { leave.acquire().await.unwrap().forget() };
    Ok(match request.uri().path() {
        "/Orders/Get" => {
            let get = service_fn(move |asked: tonic::Request<Bytes>| {
                let leave = leave.clone();
                async move {
                    next(leave).await;
                    Ok::<_, Status>(tonic::Response::new(asked.into_inner()))
                }
            });
            grpc.unary(get, request).await
        }
        "/Orders/Watch" => {
            let watch = service_fn(move |asked: tonic::Request<Bytes>| {
                let order = asked.into_inner();
                // Two messages, and an end that is waited for too.
                let messages = futures_util::stream::unfold((leave.clone(), 0), move |(leave, n)| {
                    let order = order.clone();
                    async move {
                        next(leave.clone()).await;
                        (n < 2).then_some((Ok(order), (leave, n + 1)))
                    }
                });
                let messages: Messages = Box::pin(messages);
                std::future::ready(Ok::<_, Status>(tonic::Response::new(messages)))
            });
            grpc.server_streaming(watch, request).await
        }
        _ => {
            let fail = service_fn(|_: tonic::Request<Bytes>| {
                let status = Status::failed_precondition("no such order");
                std::future::ready(Err::<tonic::Response<Bytes>, _>(status))
            });
            grpc.unary(fail, request).await
        }
    })
}

struct Site {
    gate: Gate,
    leave: Arc<Semaphore>,
    addr: SocketAddr,
    calls: tonic::client::Grpc<Client<HttpConnector, tonic::body::Body>>,
}

impl Site {
    async fn start() -> Site {
        let (gate, _keeper) = Gate::new("grpc");
        let leave = Arc::new(Semaphore::new(0));
        let listener = Listener::bind(&anywhere(), None, Limits::default())
            .await
            .unwrap();
        let addr = listener.local_addr().unwrap();
        let service = service_fn({
            let leave = leave.clone();
            move |request| orders(leave.clone(), request)
        });
        tokio::spawn(listener.serve(CountLayer::new(gate).layer(service), CancellationToken::new()));
        let http2 = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        let origin = Uri::try_from(format!("http://{addr}")).unwrap();
        let calls = tonic::client::Grpc::with_origin(http2, origin);
        Site {
            gate,
            leave,
            addr,
            calls,
        }
    }

    fn in_flight(&self) -> u64 {
        self.gate.sight().in_flight
    }

    async fn unary(&self, path: &'static str) -> Result<Bytes, Status> {
        let mut calls = self.calls.clone();
        calls.ready().await.unwrap();
        let asked = tonic::Request::new(Bytes::from("order 7"));
        let answer = calls.unary(asked, PathAndQuery::from_static(path), Plain).await?;
        Ok(answer.into_inner())
    }

    async fn watch(&self) -> tonic::Streaming<Bytes> {
        let mut calls = self.calls.clone();
        calls.ready().await.unwrap();
        let asked = tonic::Request::new(Bytes::from("order 7"));
        let path = PathAndQuery::from_static("/Orders/Watch");
        calls
            .server_streaming(asked, path, Plain)
            .await
            .unwrap()
            .into_inner()
    }

    async fn until_nothing_is_in_flight(&self) {
        until("nothing is in flight", || self.in_flight() == 0).await;
    }
}

#[tokio::test]
async fn a_unary_grpc_call_is_counted_while_it_runs_and_not_after_it() {
    let site = Site::start().await;
    let call = async {
        until("it runs", || site.in_flight() == 1).await;
        assert_eq!(site.gate.running()[0].name, "POST /Orders/Get");
        site.leave.add_permits(1);
    };
    let (answer, ()) = tokio::join!(site.unary("/Orders/Get"), call);
    assert_eq!(answer.unwrap(), "order 7");
    site.until_nothing_is_in_flight().await;
}

#[tokio::test]
async fn a_grpc_call_that_fails_counts_down() {
    let site = Site::start().await;
    let status = site.unary("/Orders/Lose").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    site.until_nothing_is_in_flight().await;
}

#[tokio::test]
async fn a_grpc_stream_is_counted_until_its_trailers() {
    let site = Site::start().await;
    let mut messages = site.watch().await;
    for _ in 0..2 {
        site.leave.add_permits(1);
        assert_eq!(messages.next().await.unwrap().unwrap(), "order 7");
        assert_eq!(site.in_flight(), 1);
    }
    // All messages have come; the call has not ended before its trailers say how.
    let ends = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
            assert_eq!(site.in_flight(), 1);
        }
        site.leave.add_permits(1);
    };
    let (end, ()) = tokio::join!(messages.next(), ends);
    assert!(end.is_none(), "{end:?}");
    assert!(messages.trailers().await.unwrap().is_some());
    site.until_nothing_is_in_flight().await;
}

#[tokio::test]
async fn a_grpc_stream_that_its_client_cancels_counts_down() {
    let site = Site::start().await;
    let mut messages = site.watch().await;
    site.leave.add_permits(1);
    messages.next().await.unwrap().unwrap();
    assert_eq!(site.in_flight(), 1);
    drop(messages);
    site.until_nothing_is_in_flight().await;

    // And one that is cancelled before its answer has begun.
    let mut call = Box::pin(site.unary("/Orders/Get"));
    tokio::select! {
        biased;
        _ = &mut call => panic!("nothing let it go"),
        () = until("it runs", || site.in_flight() == 1) => {}
    }
    drop(call);
    site.until_nothing_is_in_flight().await;
    // The connection that they shared goes on.
    site.leave.add_permits(1);
    assert_eq!(site.unary("/Orders/Get").await.unwrap(), "order 7");
    // And the same listener speaks HTTP/1 to others.
    let answer = client()
        .get(format!("http://{}/Orders/Lose", site.addr))
        .send()
        .await;
    assert_eq!(answer.unwrap().status(), 200);
    site.until_nothing_is_in_flight().await;
}
