//! A board with two streams, a switch and both surfaces, and a way to call them.
use axum::Router;
use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tidegate_admin::{Access, Admin, Examination, Hooks, Metrics, Options, Right, TokenSpec};
use tidegate_gate::{
    Cause, Clock, Controller, Holds, Kind, Life, Member, Moment, Scope, SwitchStatus, Version, Wish,
};
use tidegate_http::Peer;
use tower::ServiceExt;

pub(crate) struct Board {
    pub(crate) holds: Arc<Holds>,
    pub(crate) orders: Member,
    pub(crate) app: Member,
    pub(crate) admin: Admin,
    pub(crate) metrics: Metrics,
    /// Polls asked for; each ends after a second.
    pub(crate) polls: Arc<AtomicU32>,
    /// What a drill is told of the switches.
    pub(crate) found: Arc<Mutex<Vec<Examination>>>,
    pub(crate) time: Arc<Mutex<Moment>>,
    pub(crate) dir: TempDir,
}

/// 2026-11-22T12:00:00Z
pub(crate) fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_348_800)
}

pub(crate) fn switch() -> SwitchStatus {
    SwitchStatus {
        name: "ops".into(),
        provider: "vault",
        streams: vec!["orders".into(), "app".into()],
        reading: "running",
        version: Some(Version {
            id: "7".into(),
            written: Some(noon() - Duration::from_secs(3600)),
        }),
        good_at: None,
        error: None,
        warnings: Vec::new(),
        next_poll: None,
        settled: true,
        stale: false,
    }
}

/// What a look at a switch finds where nothing is wrong.
pub(crate) fn sound() -> Examination {
    Examination {
        switch: "ops".into(),
        streams: vec!["orders".into(), "app".into()],
        reading: "running",
        error: None,
        took: Duration::from_millis(4),
        interval: Duration::from_secs(1),
        old: false,
        access: Access::ReadOnly,
        acts: Ok(()),
    }
}

impl Board {
    pub(crate) fn new() -> Board {
        Board::with(|_, _| ())
    }

    /// With a token for each set of rights; the token is the name with `-token-of-16-bytes` behind it.
    pub(crate) fn with_tokens(tokens: &[(&str, &[Right])]) -> Board {
        Board::with(|options, dir| {
            for (name, allow) in tokens {
                let file = dir.path().join(name);
                std::fs::write(&file, format!("{}\n", token(name))).unwrap();
                options.control.tokens.push(TokenSpec {
                    name: (*name).into(),
                    file,
                    allow: allow.to_vec(),
                });
            }
        })
    }

    pub(crate) fn with(change: impl FnOnce(&mut Options, &TempDir)) -> Board {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::default();
        change(&mut options, &dir);
        let time = Arc::new(Mutex::new(Moment {
            wall: noon(),
            mono: Instant::now(),
        }));
        let now = time.clone();
        let holds = Holds::new(Clock::new(move || *now.lock().unwrap()));
        let orders = holds.register("orders", Kind::Stream).unwrap();
        let app = holds.register("app", Kind::Gate { serves: true }).unwrap();
        orders.set_life(Life::Up);
        app.set_life(Life::Up);
        let mono = time.lock().unwrap().mono;
        holds.put_switch(SwitchStatus {
            good_at: Some(mono),
            ..switch()
        });
        let metrics = Metrics::new(holds.clone(), "0.0.0-test");
        let polls = Arc::new(AtomicU32::new(0));
        let counted = polls.clone();
        let found = Arc::new(Mutex::new(vec![sound()]));
        let script = found.clone();
        let hooks = Hooks {
            poll: Arc::new(move || {
                counted.fetch_add(1, Relaxed);
                Box::pin(tokio::time::sleep(Duration::from_secs(1)))
            }),
            examine: Arc::new(move || {
                let found = script.lock().unwrap().clone();
                Box::pin(std::future::ready(found))
            }),
            ..Hooks::default()
        };
        let admin = Admin::new(holds.clone(), metrics.clone(), options, hooks).unwrap();
        Board {
            holds,
            orders,
            app,
            admin,
            metrics,
            polls,
            found,
            time,
            dir,
        }
    }

    pub(crate) fn pass(&self, time: Duration) {
        let mut now = self.time.lock().unwrap();
        now.wall += time;
        now.mono += time;
    }

    /// What a switch's poll loop does when its secret says so.
    pub(crate) fn flip(&self, paused: bool, version: &str) {
        let who = Controller::Switch("ops".into());
        let now = *self.time.lock().unwrap();
        let cause = Cause {
            actor: Some(format!("store:{version}").into()),
            version: Some(Version {
                id: version.into(),
                written: Some(now.wall - Duration::from_millis(250)),
            }),
            read_at: Some(now.mono),
            first_seen: true,
            ..Cause::default()
        };
        if paused {
            let wish = Wish {
                reason: Some("db maintenance".into()),
                by: Some("ana".into()),
                cause,
                ..Wish::default()
            };
            self.holds.place(&who, Scope::All, wish).unwrap();
        } else {
            self.holds.release(&who, Scope::All, &cause).unwrap();
        }
    }

    pub(crate) async fn control(&self, request: Call) -> Answer {
        request.send(self.admin.control()).await
    }

    pub(crate) async fn observe(&self, request: Call) -> Answer {
        request.send(self.admin.observe()).await
    }

    pub(crate) fn token_file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

pub(crate) fn token(name: &str) -> String {
    format!("{name}-token-of-16-bytes")
}

/// A request in the making, from this machine unless it says otherwise.
pub(crate) struct Call {
    pub(crate) request: Request<Body>,
}

pub(crate) fn post(path: &str) -> Call {
    call(Method::POST, path)
}

pub(crate) fn get(path: &str) -> Call {
    call(Method::GET, path)
}

pub(crate) fn call(method: Method, path: &str) -> Call {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1:9470")
        .body(Body::empty())
        .unwrap();
    Call { request }.from(Some("127.0.0.1:5000"))
}

impl Call {
    pub(crate) fn body(mut self, body: impl Into<Body>) -> Call {
        *self.request.body_mut() = body.into();
        self
    }

    pub(crate) fn json(self, body: &Value) -> Call {
        self.body(body.to_string())
    }

    /// Replaces the header.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Call {
        self.request.headers_mut().insert(name, value.parse().unwrap());
        self
    }

    pub(crate) fn without(mut self, name: &'static str) -> Call {
        self.request.headers_mut().remove(name);
        self
    }

    pub(crate) fn bearer(self, name: &str) -> Call {
        let value = format!("Bearer {}", token(name));
        self.header("authorization", &value)
    }

    pub(crate) fn from(mut self, addr: Option<&str>) -> Call {
        let addr = addr.map(|a| a.parse().unwrap());
        self.request.extensions_mut().insert(Peer::new(addr, None, false));
        self
    }

    pub(crate) async fn send(self, router: Router) -> Answer {
        let response: Response<Body> = router.oneshot(self.request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 1 << 24).await.unwrap();
        Answer {
            status: head.status,
            headers: head.headers,
            text: String::from_utf8(body.to_vec()).unwrap(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// The status and the sentence of a refusal.
    pub(crate) fn refused(&self) -> (u16, String) {
        let body = self.json();
        assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
        (self.status.as_u16(), body["error"].as_str().unwrap().to_owned())
    }
}
