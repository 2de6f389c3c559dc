//! Vault, KV version 1 and 2, against the dev store over real sockets.
use crate::bench::{Bench, Watch, set_paused};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tidegate_devstore::{DevStore, Fault, Options, Rule};
use tidegate_gate::{Clock, Holds, Kind, Moment, Name, Policy, Reading, State};
use tidegate_providers::{Observer, Poller, Provider, Switch, Vault, VaultAuth, VaultConfig};
use tokio_util::sync::CancellationToken;

pub(crate) struct Store {
    kv: u8,
    pub(crate) store: DevStore,
    token: tempfile::NamedTempFile,
}

impl Store {
    async fn open(kv: u8) -> Store {
        let store = DevStore::start(Options::default()).await.unwrap();
        // As the manifests tell operators to: read on the one data path and nothing else.
        let path = ["kv/streams/orders", "secret/data/streams/orders"][usize::from(kv - 1)];
        let policy = format!(
            "path \"{path}\" {{ capabilities = [\"read\"] }}\npath \"{path}-2\" {{ capabilities = [\"read\"] }}"
        );
        store.vault().put_policy("orders", &policy).unwrap();
        let issued = store
            .vault()
            .create_token(json!({"policies": ["orders"], "ttl": "1h"}))
            .unwrap();
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&token, issued.token.expose_secret()).unwrap();
        Store { kv, store, token }
    }

    fn mount(&self) -> &'static str {
        if self.kv == 1 { "kv" } else { "secret" }
    }

    fn vault(&self, path: &str) -> Vault {
        self.vault_by(
            path,
            VaultAuth::Token {
                env: None,
                file: Some(self.token.path().to_owned()),
            },
        )
    }

    pub(crate) fn vault_by(&self, path: &str, auth: VaultAuth) -> Vault {
        Vault::new(VaultConfig {
            address: self.store.vault_url(),
            namespace: None,
            mount: self.mount().to_owned(),
            path: path.to_owned(),
            kv: self.kv,
            ca_file: None,
            allow_plaintext: false,
            auth,
        })
        .unwrap()
    }

    fn put(&self, data: Value) {
        self.store
            .vault()
            .put(self.mount(), "streams/orders", data)
            .unwrap();
    }

    fn call(&self, method: &str, path: &str) {
        let (status, body) = self.store.vault().call(method, path, json!({}));
        assert!(status.is_success(), "{method} {path}: {status} {body}");
    }

    fn ailments(&self) -> Vec<(&'static str, &'static str)> {
        let mut all = vec![
            ("missing", "the key taken out"),
            ("malformed", "a word"),
            ("malformed", "a list"),
            ("malformed", "two keys that differ in case"),
            ("denied", "token forgotten"),
            ("throttled", "429"),
            ("sealed", "sealed"),
            ("unavailable", "offline"),
            ("unavailable", "hang"),
            ("unavailable", "reset"),
            ("unavailable", "reset in body"),
            ("unavailable", "truncated"),
            ("unavailable", "garbage"),
            ("unavailable", "not http"),
            ("unavailable", "500"),
            ("unavailable", "proxy page"),
            ("unavailable", "redirect"),
            ("malformed", "endless"),
        ];
        all.extend(match self.kv {
            1 => vec![("missing", "deleted for good")],
            _ => vec![
                ("deleted", "deleted"),
                ("deleted", "destroyed"),
                ("missing", "deleted for good"),
            ],
        });
        all
    }

    async fn ail(&self, way: &str) {
        let fault = |fault| {
            self.store.faults().add(Rule::new(fault));
        };
        match way {
            "the key taken out" => self.put(json!({"password": "MARKED"})),
            "a word" => self.put(json!({"IsPaused": "MARKED"})),
            "a list" => self.put(json!({"IsPaused": [true]})),
            "two keys that differ in case" => self.put(json!({"IsPaused": "true", "ispaused": "true"})),
            "token forgotten" => self.store.vault().forget_tokens(),
            "sealed" => self.store.vault().seal(),
            "offline" => self.store.vault_offline().await.unwrap(),
            "429" => fault(Fault::status(429)),
            "hang" => fault(Fault::Hang),
            "reset" => fault(Fault::ResetBeforeHeaders),
            "reset in body" => fault(Fault::ResetInBody),
            "truncated" => fault(Fault::Truncated),
            "garbage" => fault(Fault::Garbage),
            "not http" => fault(Fault::NotHttp),
            "endless" => fault(Fault::Endless),
            "500" => fault(Fault::status(500)),
            "proxy page" => fault(Fault::status(404).body("text/html", "<html>MARKED</html>")),
            "redirect" => fault(Fault::redirect(
                "http://127.0.0.1:1/v1/secret/data/streams/orders",
            )),
            "deleted" => self.call("DELETE", "secret/data/streams/orders"),
            "destroyed" => {
                let (_, body) = self
                    .store
                    .vault()
                    .call("GET", "secret/metadata/streams/orders", json!({}));
                let current = body["data"]["current_version"].clone();
                let (status, _) = self.store.vault().call(
                    "POST",
                    "secret/destroy/streams/orders",
                    json!({"versions": [current]}),
                );
                assert!(status.is_success(), "{status}");
            }
            "deleted for good" if self.kv == 1 => self.call("DELETE", "kv/streams/orders"),
            "deleted for good" => self.call("DELETE", "secret/metadata/streams/orders"),
            other => panic!("{other}"),
        }
    }

    async fn heal(&self) {
        self.store.faults().clear();
        self.store.vault().unseal();
        self.store.vault_online().await.unwrap();
        let issued = self
            .store
            .vault()
            .create_token(json!({"policies": ["orders"], "ttl": "1h"}))
            .unwrap();
        std::fs::write(&self.token, issued.token.expose_secret()).unwrap();
    }
}

macro_rules! store {
    ($name:ident, $kv:literal) => {
        pub(crate) struct $name(pub(crate) Store);
        impl Bench for $name {
            async fn open() -> Self {
                $name(Store::open($kv).await)
            }
            fn provider(&self) -> Box<dyn Provider> {
                Box::new(self.0.vault("streams/orders"))
            }
            fn other(&self) -> Box<dyn Provider> {
                Box::new(self.0.vault("streams/orders-2"))
            }
            async fn set(&self, fields: &[(&str, &str)]) {
                let data: serde_json::Map<_, _> = fields
                    .iter()
                    .map(|(name, text)| ((*name).to_owned(), (*text).into()))
                    .collect();
                self.0.put(Value::Object(data));
            }
            fn ailments(&self) -> Vec<(&'static str, &'static str)> {
                self.0.ailments()
            }
            async fn ail(&self, way: &str) {
                self.0.ail(way).await;
            }
            async fn heal(&self) {
                self.0.heal().await;
            }
        }
    };
}
store!(Kv1, 1);
store!(Kv2, 2);

#[derive(Clone, Default)]
struct Polls(Arc<Mutex<u64>>);
impl Observer for Polls {
    fn polled(&self, switch: &Name, _: &Reading, _: Duration) {
        if &**switch == "a" {
            *self.0.lock().unwrap() += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn among_500_secrets_three_switches_on_one_of_them_make_one_request_per_poll() {
    let bench = Kv2::open().await;
    for n in 0..500 {
        bench
            .0
            .store
            .vault()
            .put("secret", &format!("streams/{n}"), json!({"IsPaused": "true"}))
            .unwrap();
    }
    set_paused(&bench, true).await;
    let holds = Holds::new(Clock::new(|| Moment {
        wall: SystemTime::now(),
        mono: Instant::now(),
    }));
    let names = ["a", "b", "c"];
    for name in names {
        holds.register(name, Kind::Stream).unwrap();
    }
    let switches: Vec<(Switch, Box<dyn Provider>)> = names
        .map(|name| {
            let switch = Switch {
                interval: Duration::from_millis(100),
                ..Switch::new(name, [name])
            };
            (switch, bench.provider())
        })
        .into();
    let (polls, stop) = (Polls::default(), CancellationToken::new());
    let poller = Poller::bind(holds.clone(), switches, 1, polls.clone()).unwrap();
    let nudger = poller.nudger();
    let tasks: Vec<_> = poller.tasks(&stop).into_iter().map(tokio::spawn).collect();
    assert_eq!(tasks.len(), 1);
    for _ in 0..20 {
        nudger.poll_now().await;
    }
    stop.cancel();
    for task in tasks {
        task.await.unwrap();
    }
    let polls = *polls.0.lock().unwrap();
    let data: Vec<_> = bench
        .0
        .store
        .requests()
        .seen()
        .into_iter()
        .filter(|r| r.path.contains("/data/"))
        .collect();
    let reads = data.len() as u64;
    assert!(
        data.iter()
            .all(|request| request.path == "/v1/secret/data/streams/orders")
    );
    // The last request may have been on its way when everything stopped.
    assert!(
        polls >= 20 && (reads == polls || reads == polls + 1),
        "{reads} requests in {polls} polls"
    );
    for stream in &holds.snapshot().streams {
        assert_eq!(stream.holds.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_made_anew_counts_although_its_version_is_lower() {
    let bench = Kv2::open().await;
    for _ in 0..5 {
        set_paused(&bench, true).await;
    }
    let watch = Watch::start(bench.provider(), Policy::default());
    watch.until_reading("paused").await;
    bench.ail("deleted for good").await;
    watch.until_reading("missing").await;
    assert_eq!(watch.state(), State::Paused);
    set_paused(&bench, false).await;
    watch.until_reading("running").await;
    assert_eq!(watch.state(), State::Running);
    assert_eq!(
        watch.now().switch("ops").unwrap().version.as_ref().unwrap().id,
        "1".into()
    );
    watch.end().await;
}
