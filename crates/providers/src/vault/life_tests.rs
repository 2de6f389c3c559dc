#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
//! The life of tokens in simulated time: a store in memory on tokio's paused clock, polled by the real loop.
use super::client::{Answer, Carried, Client, Wire};
use super::*;
use crate::{Observer, Poller, Provider, Switch};
use http::{Method, StatusCode};
use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tidegate_gate::{Clock, Holds, Kind, Moment, Reading};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const TTL: Duration = Duration::from_secs(20);
const MAX_TTL: Duration = Duration::from_secs(70);
/// The loop's longest delay, and its timeout.
const DELAY: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(2);

/// What is wrong with the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ill {
    #[default]
    No,
    /// Renewals and logins answer 500.
    LoginsFail,
    /// Renewals and logins never answer.
    LoginsHang,
    /// Nothing answers.
    AllHang,
    /// The role's tokens may not read.
    PolicyGone,
}

#[derive(Default)]
struct State {
    /// When a token ends, and when it ends at the latest.
    tokens: HashMap<String, (Instant, Instant)>,
    issued: usize,
    logins: usize,
    renewals: usize,
    denied: usize,
    ill: Ill,
    secret_id: String,
    /// When each request came, and to where.
    asked: Vec<(Instant, String)>,
}

#[derive(Clone, Default)]
struct Store(Arc<Mutex<State>>);

impl Store {
    fn answer(&self, request: &reqwest::Request) -> Option<(u16, String)> {
        let mut state = self.0.lock().unwrap();
        let (now, path) = (Instant::now(), request.url().path().to_owned());
        state.asked.push((now, path.clone()));
        let denied = Some((403, r#"{"errors":["permission denied"]}"#.to_owned()));
        if state.ill == Ill::AllHang {
            return None;
        }
        let is_read = request.method() == Method::GET && path.contains("/data/");
        match state.ill {
            Ill::LoginsHang if !is_read => return None,
            Ill::LoginsFail if !is_read => return Some((500, r#"{"errors":["MARKED"]}"#.into())),
            Ill::PolicyGone if is_read => return denied,
            _ => {}
        }
        if path.ends_with("/login") {
            let body: serde_json::Value =
                serde_json::from_slice(request.body().unwrap().as_bytes().unwrap()).unwrap();
            if body["role_id"] != "MARKED-role" || body["secret_id"] != *state.secret_id {
                return Some((400, r#"{"errors":["invalid role or secret ID"]}"#.into()));
            }
            state.logins += 1;
            state.issued += 1;
            let token = format!("hvs.MARKED.{}", state.issued);
            state.tokens.insert(token.clone(), (now + TTL, now + MAX_TTL));
            let ttl = TTL.as_secs();
            return Some((
                200,
                format!(r#"{{"auth":{{"client_token":"{token}","lease_duration":{ttl},"renewable":true}}}}"#),
            ));
        }
        let token = request.headers().get("x-vault-token").unwrap();
        assert!(token.is_sensitive(), "its Debug would show the token");
        let token = token.to_str().unwrap().to_owned();
        let Some((expires, latest)) = state
            .tokens
            .get(&token)
            .copied()
            .filter(|(expires, _)| *expires > now)
        else {
            state.denied += 1;
            return denied;
        };
        if path.ends_with("/renew-self") {
            let expires = (now + TTL).min(latest);
            state.tokens.insert(token.clone(), (expires, latest));
            state.renewals += 1;
            let ttl = (expires - now).as_secs();
            return Some((
                200,
                format!(r#"{{"auth":{{"client_token":"{token}","lease_duration":{ttl},"renewable":true}}}}"#),
            ));
        }
        if path.ends_with("/lookup-self") {
            let ttl = (expires - now).as_secs();
            return Some((
                200,
                format!(r#"{{"data":{{"ttl":{ttl},"renewable":true,"id":"{token}"}}}}"#),
            ));
        }
        assert!(is_read, "{path}");
        assert!(expires > now);
        Some((
            200,
            r#"{"data":{"data":{"IsPaused":"false","password":"MARKED"},"metadata":{"created_time":"2026-11-22T18:00:00Z","deletion_time":"","destroyed":false,"version":1}}}"#.into(),
        ))
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }
}

impl Wire for Store {
    fn carry(&self, request: reqwest::Request) -> Carried<'_> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            let Some((status, body)) = self.answer(&request) else {
                return std::future::pending().await;
            };
            Ok(Answer {
                status: StatusCode::from_u16(status).unwrap(),
                retry_after: None,
                body: body.into_bytes().into(),
            })
        })
    }
}

/// Everything that is logged, at every level.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);
impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
impl Log {
    pub(super) fn capture() -> (Log, tracing::subscriber::DefaultGuard) {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[derive(Clone, Default)]
struct Polls(Arc<Mutex<Vec<(Instant, &'static str)>>>);
impl Observer for Polls {
    fn polled(&self, _: &Name, reading: &Reading, _: Duration) {
        self.0.lock().unwrap().push((Instant::now(), reading.word()));
    }
}
impl Polls {
    /// The longest time between two of them, over those with that word if one is given.
    fn longest_gap(&self, word: Option<&str>) -> Duration {
        let polls = self.0.lock().unwrap();
        let times: Vec<Instant> = polls
            .iter()
            .filter(|(_, w)| word.is_none_or(|word| word == *w))
            .map(|(at, _)| *at)
            .collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
    }
    fn last(&self) -> &'static str {
        self.0.lock().unwrap().last().unwrap().1
    }
    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// A store, a loop that polls it each second as an AppRole, and what it logs.
struct Life {
    store: Store,
    polls: Polls,
    log: Log,
    secret_id: tempfile::NamedTempFile,
    stop: CancellationToken,
    _log: tracing::subscriber::DefaultGuard,
}

impl Life {
    fn start(ill: Ill) -> Life {
        Life::of(
            ill,
            "auth = { method = \"approle\", role_id = \"MARKED-role\", secret_id_file = \"FILE\" }",
        )
    }

    fn of(ill: Ill, auth: &str) -> Life {
        Life::polled_each(Duration::from_secs(1), ill, auth)
    }

    fn polled_each(interval: Duration, ill: Ill, auth: &str) -> Life {
        let (log, guard) = Log::capture();
        let secret_id = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&secret_id, "MARKED-secret\n").unwrap();
        let store = Store::default();
        store.with(|state| {
            state.ill = ill;
            state.secret_id = "MARKED-secret".into();
        });
        let auth = auth.replace("FILE", secret_id.path().to_str().unwrap());
        let text = format!("address = \"https://vault.internal\"\npath = \"streams/orders\"\n{auth}");
        let config: VaultConfig = toml::from_str(&text).unwrap();
        let client = Client::over(Arc::new(store.clone()), &config).unwrap();
        let vault = Vault::over(client, config).unwrap();
        assert!(!vault.id().contains("MARKED"), "{}", vault.id());

        let start = Instant::now();
        let holds = Holds::new(Clock::new(move || Moment {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + start.elapsed(),
            mono: Instant::now().into_std(),
        }));
        holds.register("orders", Kind::Stream).unwrap();
        let polls = Polls::default();
        let switches: Vec<(Switch, Box<dyn Provider>)> = vec![(
            Switch {
                interval,
                ..Switch::new("ops", ["orders"])
            },
            Box::new(vault),
        )];
        let poller = Poller::bind(holds, switches, 3, polls.clone()).unwrap();
        let stop = CancellationToken::new();
        for task in poller.tasks(&stop) {
            tokio::spawn(task);
        }
        Life {
            store,
            polls,
            log,
            secret_id,
            stop,
            _log: guard,
        }
    }

    async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    fn end(self) {
        self.stop.cancel();
        let text = self.log.text();
        assert!(text.contains("flag read"), "something was logged");
        assert!(!text.contains("MARKED"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_renewals_and_logins_leave_no_gap_in_polling() {
    let life = Life::start(Ill::No);
    let mut forgotten = 0;
    while life.store.with(|state| state.renewals + state.logins) < 1000 {
        life.pass(97).await;
        // A store that was restored from a backup knows none of the tokens it has issued since.
        life.store.with(|state| state.tokens.clear());
        forgotten += 1;
    }
    let (logins, renewals) = life.store.with(|state| (state.logins, state.renewals));
    assert!(
        logins > forgotten && renewals > 500,
        "{logins} logins, {renewals} renewals"
    );
    let gap = life.polls.longest_gap(Some("running"));
    assert!(
        gap <= Duration::from_millis(1100),
        "{gap:?}: each poll brought a flag"
    );
    life.end();
}

#[tokio::test(start_paused = true)]
async fn while_a_token_is_valid_renewals_and_logins_that_fail_or_hang_cost_no_reading() {
    for ill in [Ill::LoginsFail, Ill::LoginsHang] {
        let life = Life::start(Ill::No);
        for _ in 0..50 {
            life.pass(60).await;
            life.store.with(|state| state.ill = ill);
            // Less than what a token lives on after its successor came due.
            life.pass(3).await;
            life.store.with(|state| state.ill = Ill::No);
        }
        let gap = life.polls.longest_gap(Some("running"));
        assert!(gap <= Duration::from_millis(1100), "{ill:?}: {gap:?}");
        life.end();
    }
}

#[tokio::test(start_paused = true)]
async fn after_any_outage_a_flag_is_read_within_the_current_delay_and_the_timeout() {
    for ill in [Ill::LoginsFail, Ill::LoginsHang, Ill::AllHang] {
        let life = Life::start(ill);
        for round in 0..40 {
            life.pass(30 + round).await;
            life.store.with(|state| {
                state.ill = Ill::No;
                // In every other round the store has also forgotten its tokens.
                if round % 2 == 0 {
                    state.tokens.clear();
                }
            });
            life.polls.clear();
            let slack = Duration::from_millis(50);
            tokio::time::sleep(DELAY + TIMEOUT + slack).await;
            assert_eq!(life.polls.last(), "running", "{ill:?} in round {round}");
            life.pass(40).await;
            life.polls.clear();
            life.store.with(|state| state.ill = ill);
            life.pass(120).await;
            let gap = life.polls.longest_gap(None);
            assert!(
                gap <= DELAY + TIMEOUT + slack,
                "{ill:?}: it stopped polling for {gap:?}"
            );
        }
        life.end();
    }
}

#[tokio::test(start_paused = true)]
async fn a_role_that_may_not_read_does_not_make_it_log_in_at_each_poll() {
    let life = Life::start(Ill::PolicyGone);
    life.pass(600).await;
    let (logins, polls) = life.store.with(|state| (state.logins, state.asked.len()));
    assert!(polls > 100 && logins < 60, "{logins} logins in {polls} requests");
    assert_eq!(life.polls.last(), "denied");
    life.store.with(|state| state.ill = Ill::No);
    life.pass(8).await;
    assert_eq!(life.polls.last(), "running");
    life.end();
}

#[tokio::test(start_paused = true)]
async fn a_rotated_secret_id_is_used_at_the_next_login_and_a_wrong_one_costs_nothing_before() {
    let life = Life::start(Ill::No);
    life.pass(10).await;
    life.store.with(|state| state.secret_id = "MARKED-rotated".into());
    life.pass(20).await;
    assert_eq!(life.polls.last(), "running", "the token lives on");
    std::fs::write(&life.secret_id, "MARKED-rotated").unwrap();
    let logins = life.store.with(|state| state.logins);
    life.pass(200).await;
    assert!(life.store.with(|state| state.logins) > logins);
    assert!(life.polls.longest_gap(Some("running")) <= Duration::from_millis(1100));
    life.end();
}

#[tokio::test(start_paused = true)]
async fn tokens_are_seen_to_between_reads_that_are_further_apart_than_they_live() {
    let auth = "auth = { method = \"approle\", role_id = \"MARKED-role\", secret_id_file = \"FILE\" }";
    let life = Life::polled_each(TTL * 5, Ill::No, auth);
    life.pass(2000).await;
    assert!(life.store.with(|state| state.renewals) > 50);
    let denied = life.store.with(|state| state.denied);
    assert_eq!(denied, 0, "no read had to find out that its token had ended");
    life.end();
}

/// The twin: who keeps to one token, as long as it can be renewed, must be caught by the same check.
#[tokio::test(start_paused = true)]
async fn without_logins_the_same_store_leaves_gaps() {
    let life = Life::of(Ill::No, "auth = { method = \"token\", file = \"FILE\" }");
    let until = (Instant::now() + TTL, Instant::now() + MAX_TTL);
    life.store
        .with(|state| state.tokens.insert("MARKED-secret".into(), until));
    life.pass(97).await;
    assert!(
        life.store.with(|state| state.renewals) > 1,
        "it was renewed as long as that was possible"
    );
    assert!(life.polls.longest_gap(Some("denied")) >= Duration::from_secs(1));
    assert_eq!(life.polls.last(), "denied");
    life.end();
}
