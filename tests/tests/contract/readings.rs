//! What tidegate's own reader makes of a Vault's answers, whichever Vault it is: for each thing that an operator or an
//! accident can do to the secret, the reading that follows, by the same provider.
use crate::target::{PATIENCE, Target};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use tidegate_gate::{Clock, Holds, Kind, Life, Moment, State};
use tidegate_providers::{Poller, Provider, Seen, Switch, Vault, VaultAuth, VaultConfig, read_once};
use tokio_util::sync::CancellationToken;

const NULL: Value = Value::Null;
const LIMIT: Duration = Duration::from_secs(20);

/// A mount of its own, a policy that allows to read one secret in it, and a token in a file.
struct Bench {
    target: Target,
    kv: u8,
    mount: String,
    dir: TempDir,
}

impl Bench {
    async fn open(kv: u8) -> Bench {
        let target = Target::vault().await;
        println!("{}: KV version {kv}", target.name());
        let mount = format!("r-kv{kv}");
        let gone = format!("sys/mounts/{mount}");
        target.root("DELETE", &gone, NULL).await;
        let bench = Bench {
            target,
            kv,
            mount,
            dir: tempfile::tempdir().unwrap(),
        };
        bench.mounted().await;
        bench.allow("read").await;
        bench.new_token(json!({})).await;
        bench
    }

    async fn mounted(&self) {
        let version = json!({"type": "kv", "options": {"version": self.kv.to_string()}});
        self.target
            .root("POST", &format!("sys/mounts/{}", self.mount), version)
            .await;
        self.write(json!({"IsPaused": "true"})).await;
    }

    fn api(&self, verb: &str) -> String {
        match self.kv {
            1 => format!("{}/orders", self.mount),
            _ => format!("{}/{verb}/orders", self.mount),
        }
    }

    /// Until it is taken: a version 2 mount that was just made may still be setting itself up.
    async fn write(&self, fields: Value) {
        let body = if self.kv == 1 {
            fields
        } else {
            json!({ "data": fields })
        };
        let token = Some(self.target.token.as_str());
        let started = Instant::now();
        loop {
            let (status, answer) = self
                .target
                .ask("POST", &self.api("data"), token, &[], &body)
                .await;
            if status < 300 {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{status} {answer}");
        }
    }

    async fn allow(&self, capability: &str) {
        let path = self.api("data");
        let policy = json!({"policy": format!("path \"{path}\" {{ capabilities = [\"{capability}\"] }}")});
        self.target
            .root("PUT", &format!("sys/policies/acl/{}", self.mount), policy)
            .await;
    }

    fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    /// A new token, in the file in one step; returns its accessor.
    async fn new_token(&self, more: Value) -> String {
        let mut fields = json!({"policies": [self.mount], "ttl": "1h"});
        for (name, value) in more.as_object().unwrap() {
            fields[name] = value.clone();
        }
        let made = self.target.root("POST", "auth/token/create", fields).await;
        let new = self.dir.path().join("new");
        std::fs::write(&new, made["auth"]["client_token"].as_str().unwrap()).unwrap();
        std::fs::rename(new, self.token_file()).unwrap();
        made["auth"]["accessor"].as_str().unwrap().to_owned()
    }

    fn by_token(&self) -> Vault {
        self.reader(VaultAuth::Token {
            env: None,
            file: Some(self.token_file()),
        })
    }

    fn reader(&self, auth: VaultAuth) -> Vault {
        Vault::new(self.config(auth)).unwrap()
    }

    fn config(&self, auth: VaultAuth) -> VaultConfig {
        VaultConfig {
            address: self.target.url.clone(),
            namespace: None,
            mount: self.mount.clone(),
            path: "orders".to_owned(),
            kv: self.kv,
            ca_file: None,
            allow_plaintext: false,
            auth,
        }
    }

    fn login(&self) -> String {
        format!("auth/{}-approle/login", self.mount)
    }

    /// AppRole with this role, at a mount of its own.
    async fn approle(&self, role: Value) -> VaultAuth {
        let at = format!("{}-approle", self.mount);
        self.target.root("DELETE", &format!("sys/auth/{at}"), NULL).await;
        self.target
            .root("POST", &format!("sys/auth/{at}"), json!({"type": "approle"}))
            .await;
        let path = format!("auth/{at}/role/orders");
        self.target.root("POST", &path, role).await;
        let id = self.target.root("GET", &format!("{path}/role-id"), NULL).await;
        let secret = self
            .target
            .root("POST", &format!("{path}/secret-id"), json!({}))
            .await;
        let file = self.dir.path().join("secret-id");
        std::fs::write(&file, secret["data"]["secret_id"].as_str().unwrap()).unwrap();
        VaultAuth::Approle {
            mount: Some(at),
            role_id: id["data"]["role_id"].as_str().unwrap().into(),
            secret_id_file: file,
        }
    }
}

async fn seen(reader: &mut Vault) -> Seen {
    read_once(reader, &["IsPaused"], LIMIT).await.remove(0)
}

async fn reads(reader: &mut Vault, word: &str, told: &str) {
    let seen = seen(reader).await;
    assert_eq!(seen.reading.word(), word, "{seen:?}");
    let error = seen.error.unwrap_or_default();
    assert!(error.contains(told), "expected {told:?} in: {error}");
}

/// A server that was just unsealed or remounted takes a moment.
async fn comes_to_read(reader: &mut Vault, word: &str) {
    let started = Instant::now();
    while seen(reader).await.reading.word() != word {
        assert!(started.elapsed() < PATIENCE, "it never reads {word}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_a_secret_is_read_as_what_it_is() {
    for kv in [1, 2] {
        let b = Bench::open(kv).await;
        let mut reader = b.by_token();
        reads(&mut reader, "paused", "").await;
        b.write(json!({"IsPaused": false, "reason": "done"})).await;
        reads(&mut reader, "running", "").await;
        b.write(json!({"password": "MARKED"})).await;
        reads(&mut reader, "missing", "IsPaused").await;
        b.write(json!({"IsPaused": 1})).await;
        reads(&mut reader, "malformed", "IsPaused").await;
        b.write(json!({"IsPaused": "true"})).await;
        reads(&mut reader, "paused", "").await;
        if kv == 2 {
            let newest =
                b.target.root("GET", &b.api("data"), NULL).await["data"]["metadata"]["version"].clone();
            b.target.root("DELETE", &b.api("data"), NULL).await;
            reads(&mut reader, "deleted", "undelete").await;
            let all = json!({"versions": [newest]});
            b.target.root("POST", &b.api("undelete"), all.clone()).await;
            reads(&mut reader, "paused", "").await;
            b.target.root("POST", &b.api("destroy"), all).await;
            reads(&mut reader, "deleted", "destroyed").await;
            b.target.root("DELETE", &b.api("metadata"), NULL).await;
        } else {
            b.target.root("DELETE", &b.api("data"), NULL).await;
        }
        reads(&mut reader, "missing", "404").await;
        // Version 1 again: lower than what was seen, and new.
        b.write(json!({"IsPaused": false})).await;
        reads(&mut reader, "running", "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_the_way_to_it_is_read_as_what_it_is() {
    for kv in [1, 2] {
        let b = Bench::open(kv).await;
        let mut reader = b.by_token();
        reads(&mut reader, "paused", "").await;
        // A policy.
        b.allow("deny").await;
        reads(&mut reader, "denied", "policy").await;
        b.allow("read").await;
        reads(&mut reader, "paused", "").await;
        // A token revoked in mid-flight, and the next one in the file.
        let accessor = b.new_token(json!({})).await;
        reads(&mut reader, "paused", "").await;
        b.target
            .root(
                "POST",
                "auth/token/revoke-accessor",
                json!({ "accessor": accessor }),
            )
            .await;
        reads(&mut reader, "denied", "not valid").await;
        b.new_token(json!({})).await;
        reads(&mut reader, "paused", "").await;
        // A mount taken away and put back.
        b.target
            .root("DELETE", &format!("sys/mounts/{}", b.mount), NULL)
            .await;
        reads(&mut reader, "missing", "nothing is mounted there").await;
        b.mounted().await;
        comes_to_read(&mut reader, "paused").await;
        // A mount moved away.
        let to = format!("{}-moved", b.mount);
        b.target.root("DELETE", &format!("sys/mounts/{to}"), NULL).await;
        b.target
            .root("POST", "sys/remount", json!({"from": b.mount, "to": to}))
            .await;
        comes_to_read(&mut reader, "missing").await;
        b.target
            .root("POST", "sys/remount", json!({"from": to, "to": b.mount}))
            .await;
        comes_to_read(&mut reader, "paused").await;
        // The seal.
        let Some(key) = &b.target.unseal_key else {
            println!(
                "{}: not sealed: TIDEGATE_TEST_VAULT_UNSEAL_KEY is not given",
                b.target.name()
            );
            continue;
        };
        b.target.root("PUT", "sys/seal", NULL).await;
        reads(&mut reader, "sealed", "unseal it").await;
        let unseal = json!({ "key": key });
        b.target.ask("PUT", "sys/unseal", None, &[], &unseal).await;
        comes_to_read(&mut reader, "paused").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_logs_in_again_when_its_token_is_revoked() {
    let b = Bench::open(2).await;
    let auth = b
        .approle(json!({"token_policies": b.mount, "token_ttl": "1h"}))
        .await;
    let mut reader = b.reader(auth);
    for _ in 0..3 {
        reads(&mut reader, "paused", "").await;
        revoke_logins(&b.target, &b.login()).await;
        reads(&mut reader, "paused", "").await;
    }
    b.target
        .root("DELETE", &format!("auth/{}-approle/role/orders", b.mount), NULL)
        .await;
    revoke_logins(&b.target, &b.login()).await;
    reads(&mut reader, "denied", "auth/r-kv2-approle").await;
}

/// Revokes every token that came from this login.
pub(crate) async fn revoke_logins(target: &Target, login: &str) {
    for (accessor, _) in logins(target, login).await {
        let named = json!({ "accessor": accessor });
        target.root("POST", "auth/token/revoke-accessor", named).await;
    }
}

/// The tokens that came from this login: their accessors, and whether they were renewed.
pub(crate) async fn logins(target: &Target, login: &str) -> Vec<(String, bool)> {
    let all = target.root("LIST", "auth/token/accessors", NULL).await;
    let mut logins = Vec::new();
    for accessor in all["data"]["keys"].as_array().unwrap() {
        let named = json!({ "accessor": accessor });
        let root = Some(target.token.as_str());
        // One that ends at this moment is no error.
        let (_, found) = target
            .ask("POST", "auth/token/lookup-accessor", root, &[], &named)
            .await;
        if found["data"]["path"] == login {
            let renewed = !found["data"]["last_renewal_time"].is_null();
            logins.push((accessor.as_str().unwrap().to_owned(), renewed));
        }
    }
    logins
}

/// Polls as the sidecar does, until `enough` says so; every reading on the way has to be good.
async fn polled_until<F: Future<Output = bool>>(reader: Vault, mut enough: impl FnMut() -> F) {
    let holds = Holds::new(Clock::new(|| Moment {
        wall: SystemTime::now(),
        mono: Instant::now(),
    }));
    holds.register("orders", Kind::Stream).unwrap().set_life(Life::Up);
    let switch = Switch {
        interval: Duration::from_millis(100),
        timeout: LIMIT,
        ..Switch::new("ops", ["orders"])
    };
    let reader: Box<dyn Provider> = Box::new(reader);
    let poller = Poller::bind(holds.clone(), vec![(switch, reader)], 1, ()).unwrap();
    let stop = CancellationToken::new();
    for task in poller.tasks(&stop) {
        tokio::spawn(task);
    }
    let mut watch = holds.watch();
    let first = watch.wait_for(|s| s.switches.iter().any(|s| s.good_at.is_some()));
    tokio::time::timeout(PATIENCE, first).await.unwrap().unwrap();
    let started = Instant::now();
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !enough().await {
        looks.tick().await;
        let now = holds.snapshot();
        assert_eq!(now.streams[0].state, State::Paused);
        assert_eq!(now.switches[0].reading, "paused", "{:?}", now.switches[0].error);
        assert!(started.elapsed() < PATIENCE, "never");
    }
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_it_ends_and_no_reading_is_lost() {
    let b = Bench::open(2).await;
    let auth = b
        .approle(json!({"token_policies": b.mount, "token_ttl": "4s", "token_max_ttl": "1h"}))
        .await;
    let reader = b.reader(auth);
    let renewed = || async {
        logins(&b.target, &b.login())
            .await
            .into_iter()
            .any(|(_, renewed)| renewed)
    };
    polled_until(reader, renewed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_live_longer_is_replaced_by_a_login_and_no_reading_is_lost() {
    let b = Bench::open(2).await;
    let auth = b
        .approle(json!({"token_policies": b.mount, "token_ttl": "3s", "token_max_ttl": "3s"}))
        .await;
    let reader = b.reader(auth);
    let seen = Mutex::new(BTreeSet::new());
    // Two successors: whoever waits for the end of a token is refused at least once.
    let enough = || async {
        let now = logins(&b.target, &b.login())
            .await
            .into_iter()
            .map(|(accessor, _)| accessor);
        let mut seen = seen.lock().unwrap();
        seen.extend(now);
        seen.len() >= 3
    };
    polled_until(reader, enough).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_namespace_is_read_there_and_nowhere_else() {
    let b = Bench::open(1).await;
    let root = Some(b.target.token.as_str());
    let (made, _) = b
        .target
        .ask("POST", "sys/namespaces/r-team", root, &[], &json!({}))
        .await;
    if made >= 300 {
        println!("{}: it has no namespaces", b.target.name());
        return;
    }
    let team = [("X-Vault-Namespace", "r-team")];
    let kv = json!({"type": "kv", "options": {"version": "1"}});
    b.target
        .ask("DELETE", "sys/mounts/r-kv1", root, &team, &NULL)
        .await;
    let (mounted, answer) = b.target.ask("POST", "sys/mounts/r-kv1", root, &team, &kv).await;
    assert_eq!(mounted, 204, "{answer}");
    b.target
        .ask("PUT", "r-kv1/orders", root, &team, &json!({"IsPaused": false}))
        .await;
    std::fs::write(b.token_file(), &b.target.token).unwrap();
    let auth = || VaultAuth::Token {
        env: None,
        file: Some(b.token_file()),
    };
    let within = |namespace: Option<&str>| {
        Vault::new(VaultConfig {
            namespace: namespace.map(str::to_owned),
            ..b.config(auth())
        })
        .unwrap()
    };
    reads(&mut within(Some("r-team")), "running", "").await;
    reads(&mut within(Some("/r-team/")), "running", "").await;
    reads(&mut within(None), "paused", "").await;
    reads(&mut within(Some("r-nobody")), "missing", "namespace r-nobody").await;
}
