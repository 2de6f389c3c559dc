//! One round: flips, a fault, an operator, people who watch, and an end of the mortal process.
use crate::Plant;
use crate::subject::{MORTAL, STREAMS, Subject};
use anyhow::{Context, Result, ensure};
use e2e::flag::VaultFlag;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};
use tidegate_devstore::{Fault, RetryAfter, Rule};

/// Flips in every round, before the one under a fault.
const FLIPS: usize = 2;
/// Who watches during a round: half of them never read.
const WATCHERS: usize = 16;

/// What a round saw.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) flips: Vec<Duration>,
    pub(crate) fault: &'static str,
    /// From the end of the fault until the flip that was made under it is applied.
    pub(crate) recovery: Duration,
    /// The memory of the mortal process before its end.
    pub(crate) reborn_kib: u64,
}

pub(crate) struct Round<'a> {
    subject: &'a mut Subject,
    random: &'a mut fastrand::Rng,
    number: u64,
    plant: Option<Plant>,
    told: Told,
}

/// What no flip may follow from: where a store or a network is broken.
#[derive(Clone, Debug)]
enum Break {
    Rule(Fault),
    Offline,
    Sealed,
    /// The secret itself: there, and no flag.
    Malformed,
    /// The secret's newest version is deleted.
    Deleted,
}

impl Break {
    fn any(random: &mut fastrand::Rng) -> (&'static str, Break) {
        let drip = Duration::from_millis(150);
        let all = [
            ("503", Break::Rule(Fault::status(503))),
            ("500", Break::Rule(Fault::status(500))),
            ("403", Break::Rule(Fault::status(403))),
            ("404", Break::Rule(Fault::status(404))),
            (
                "429",
                Break::Rule(Fault::status(429).retry_after(RetryAfter::Seconds(1))),
            ),
            (
                "429 absurd",
                Break::Rule(Fault::status(429).retry_after(RetryAfter::Verbatim("soon".into()))),
            ),
            ("hang", Break::Rule(Fault::Hang)),
            ("reset", Break::Rule(Fault::ResetBeforeHeaders)),
            ("reset in headers", Break::Rule(Fault::ResetInHeaders)),
            ("reset in body", Break::Rule(Fault::ResetInBody)),
            ("garbage", Break::Rule(Fault::Garbage)),
            ("not http", Break::Rule(Fault::NotHttp)),
            ("truncated", Break::Rule(Fault::Truncated)),
            ("endless", Break::Rule(Fault::Endless)),
            ("drip", Break::Rule(Fault::Drip(drip))),
            ("redirect", Break::Rule(Fault::redirect("http://127.0.0.1:1/"))),
            ("refused", Break::Offline),
            ("sealed", Break::Sealed),
            ("malformed", Break::Malformed),
            ("deleted", Break::Deleted),
        ];
        all[random.usize(..all.len())].clone()
    }
}

impl<'a> Round<'a> {
    pub(crate) fn new(
        subject: &'a mut Subject,
        random: &'a mut fastrand::Rng,
        number: u64,
        plant: Option<Plant>,
    ) -> Round<'a> {
        Round {
            subject,
            random,
            number,
            plant,
            told: Told::default(),
        }
    }

    pub(crate) async fn run(mut self) -> Result<Told> {
        if self.subject.mortal.is_none() {
            self.subject.mortal = Some(self.subject.start_mortal()?);
        }
        let watchers = self.watchers().await?;
        if self.plant == Some(Plant::Latency) {
            self.slow_down();
        }
        for _ in 0..FLIPS {
            self.flip().await.context("a flip")?;
        }
        self.break_store().await?;
        self.operate().await.context("an operator")?;
        if self.plant == Some(Plant::Watchers) {
            std::mem::forget(watchers);
        }
        self.end_mortal().await?;
        self.arrived().await?;
        Ok(self.told)
    }

    /// Half of them read until they are dropped, half never do.
    async fn watchers(&self) -> Result<tokio::task::JoinSet<()>> {
        let (control, _) = self.subject.steady.addresses().await?;
        let mut all = tokio::task::JoinSet::new();
        for n in 0..WATCHERS {
            // Each on a connection of its own, which ends with it and not before.
            let client = reqwest::Client::builder().no_proxy().build()?;
            let answer = client.get(format!("http://{control}/watch")).send().await?;
            ensure!(answer.status().is_success(), "GET /watch: {}", answer.status());
            all.spawn(watch(answer, n % 2 == 0));
        }
        Ok(all)
    }

    fn slow_down(&self) {
        let (faults, path) = (
            self.subject.setup.store.faults(),
            self.subject.setup.flag.api_path(),
        );
        // Once there is a level to have grown from, and before anybody's timeout.
        if self.number == 8 {
            let by = Fault::Delay(Duration::from_millis(1500));
            faults.add(Rule::new(by).path(path).method(Method::GET));
        }
    }

    /// On and off again; nothing moves in between.
    async fn flip(&mut self) -> Result<()> {
        let subject = &mut *self.subject;
        tokio::time::sleep(Duration::from_millis(self.random.u64(0..200))).await;
        let began = Instant::now();
        subject.setup.flag.write(true).await?;
        subject.become_all(&subject.steady, &STREAMS, "paused").await?;
        self.told.flips.push(began.elapsed());
        self.both_become("paused").await?;
        self.stands_still(Duration::from_millis(300)).await?;

        let subject = &mut *self.subject;
        let began = Instant::now();
        subject.setup.flag.write(false).await?;
        subject.become_all(&subject.steady, &STREAMS, "running").await?;
        self.told.flips.push(began.elapsed());
        self.both_become("running").await
    }

    /// Everything is proven paused; that is looked at for so long.
    async fn stands_still(&mut self, long: Duration) -> Result<()> {
        let before = self.lengths();
        if self.plant == Some(Plant::Moves) && self.number == 2 {
            let path = self.subject.setup.path("orders.out");
            let mut sink = std::fs::OpenOptions::new().append(true).open(path)?;
            sink.write_all(b"{\"n\":0}\n")?;
        }
        tokio::time::sleep(long).await;
        let after = self.lengths();
        ensure!(
            before == after,
            "something moved while it was paused: {before:?}, then {after:?} (sinks, then requests)"
        );
        Ok(())
    }

    fn lengths(&self) -> [u64; 4] {
        let s = &*self.subject;
        [s.orders.len(), s.hooks.len(), s.copy.len(), s.reached.get()]
    }

    /// A fault, a flip that is made under it and kept from everybody, the end of the fault; and back.
    async fn break_store(&mut self) -> Result<()> {
        let (name, broken) = Break::any(self.random);
        self.told.fault = name;
        let paused = self.random.bool();
        self.under(&broken, paused)
            .await
            .with_context(|| format!("the fault {name}, flipping to paused = {paused}"))
    }

    async fn under(&mut self, broken: &Break, paused: bool) -> Result<()> {
        let (before, after) = if paused {
            ("running", "paused")
        } else {
            ("paused", "running")
        };
        let flag = self.subject.setup.flag.clone();
        flag.write(!paused).await?;
        self.both_become(before).await?;
        self.reads(|word| word == before).await?;

        let store = &self.subject.setup.store;
        let mut rule = None;
        match broken {
            Break::Rule(fault) => {
                let of = Rule::new(fault.clone()).path(flag.api_path()).method(Method::GET);
                rule = Some(store.faults().add(of));
            }
            Break::Offline => store.vault_offline().await?,
            Break::Sealed => store.vault().seal(),
            Break::Malformed => put(self.subject, json!({ "IsPaused": "perhaps" }))?,
            Break::Deleted => delete(self.subject, &flag).await?,
        }
        self.reads(|word| !["running", "paused"].contains(&word)).await?;
        match broken {
            Break::Rule(_) => flag.write(paused).await?,
            Break::Offline => put(self.subject, json!({ "IsPaused": paused }))?,
            Break::Sealed | Break::Malformed | Break::Deleted => {}
        }
        // Nothing but a good reading of a flag decides.
        let still = self
            .subject
            .become_all(&self.subject.steady, &STREAMS, before)
            .await?;
        ensure!(
            still < Duration::from_secs(10),
            "the state changed under a fault, for {still:?}"
        );
        if before == "paused" {
            self.stands_still(Duration::from_millis(100)).await?;
        }

        let store = &self.subject.setup.store;
        let began = Instant::now();
        match broken {
            Break::Rule(_) => {
                ensure!(
                    rule.is_some_and(|id| store.faults().remove(id)),
                    "the fault has ended by itself"
                );
            }
            Break::Offline => store.vault_online().await?,
            Break::Sealed => {
                store.vault().unseal();
                flag.write(paused).await?;
            }
            Break::Malformed | Break::Deleted => flag.write(paused).await?,
        }
        self.subject
            .become_all(&self.subject.steady, &STREAMS, after)
            .await?;
        self.told.recovery = began.elapsed();
        self.both_become(after).await?;
        flag.write(false).await?;
        self.both_become("running").await
    }

    /// Waits until both processes have read the flag and done what it says.
    async fn both_become(&self, state: &str) -> Result<()> {
        let subject = &*self.subject;
        subject.become_all(&subject.steady, &STREAMS, state).await?;
        let mortal = subject.mortal.as_ref().context("the mortal process")?;
        subject.become_all(mortal, &[MORTAL], state).await?;
        Ok(())
    }

    /// Waits until the steady process's reading of the secret is such a word.
    async fn reads(&self, is_one: impl Fn(&str) -> bool) -> Result<()> {
        self.subject
            .steady
            .status_until("its switch has the reading that follows", |status| {
                let mut switches = status["switches"].as_array().into_iter().flatten();
                let ops = switches.find(|s| s["name"] == "ops");
                ops.and_then(|ops| ops["reading"].as_str()).is_some_and(&is_one)
            })
            .await
    }

    /// The API pauses and resumes; its hold ends by itself in every third round. A second switch joins in.
    async fn operate(&mut self) -> Result<()> {
        let subject = &mut *self.subject;
        let expires = self.number.is_multiple_of(3);
        let until = SystemTime::now() + Duration::from_millis(1500);
        let body = if expires {
            json!({ "reason": "soak", "by": "the soak", "until": jiff::Timestamp::try_from(until)?.to_string() })
        } else {
            json!({ "reason": "soak", "by": "the soak" })
        };
        let (status, answer) = subject.call("/pause", &body).await?;
        ensure!(status == 200, "POST /pause: {status} {answer}");
        std::fs::write(subject.setup.path("local"), "true")?;
        if !expires {
            subject.become_all(&subject.steady, &STREAMS, "paused").await?;
            self.held_by("orders", "switch:local").await?;
            self.subject
                .become_all(&self.subject.steady, &STREAMS, "paused")
                .await?;
            let (status, answer) = self.subject.call("/resume", &json!({})).await?;
            ensure!(
                status == 409,
                "POST /resume while a switch holds: {status} {answer}"
            );
        }
        let subject = &mut *self.subject;
        subject
            .become_all(&subject.steady, &["hooks", "app"], "running")
            .await?;
        subject.become_all(&subject.steady, &["orders"], "paused").await?;
        std::fs::write(subject.setup.path("local"), "false")?;
        subject.become_all(&subject.steady, &STREAMS, "running").await?;
        Ok(())
    }

    async fn held_by(&self, stream: &str, controller: &str) -> Result<()> {
        self.subject
            .steady
            .status_until(&format!("{controller} holds {stream}"), |status| {
                let mut streams = status["streams"].as_array().into_iter().flatten();
                let holds = streams.find(|s| s["name"] == stream).map(|s| &s["holds"]);
                let mut holds = holds.and_then(Value::as_array).into_iter().flatten();
                holds.any(|hold| hold["controller"] == controller)
            })
            .await
    }

    /// kill -9 or SIGTERM, running or paused, at any moment; then it is started again over the same state.
    async fn end_mortal(&mut self) -> Result<()> {
        let kill = self.random.bool();
        let paused = self.number % 4 == 3;
        self.subject.setup.flag.write(paused).await?;
        let state = if paused { "paused" } else { "running" };
        let mortal = self.subject.mortal.take().context("the mortal process")?;
        self.subject.become_all(&mortal, &[MORTAL], state).await?;
        self.told.reborn_kib = e2e::proc::anonymous_kib(mortal.pid()?)?;
        let still = self.subject.copy.len();
        let moment = Duration::from_micros(self.random.u64(0..100_000));
        if kill {
            mortal.kill_after(moment).await?;
            self.subject.kills += 1;
        } else {
            tokio::time::sleep(moment).await;
            let ended = mortal.stop().await?;
            ensure!(ended.success(), "SIGTERM ended the mortal process with {ended}");
            self.subject.terms += 1;
        }
        let mortal = self.subject.start_mortal()?;
        self.subject.become_all(&mortal, &[MORTAL], state).await?;
        if paused {
            let now = self.subject.copy.len();
            ensure!(
                now == still,
                "the copy went from {still} to {now} bytes while it was paused, over an end and a start"
            );
        }
        self.subject.setup.flag.write(false).await?;
        self.subject.become_all(&mortal, &[MORTAL], "running").await?;
        self.subject.mortal = Some(mortal);
        self.subject.copy.check(kill).context("after an end")
    }

    /// What was written until now is there soon, each once and in order.
    async fn arrived(&mut self) -> Result<()> {
        let subject = &mut *self.subject;
        let (written, stored) = (subject.written.get(), subject.stored.get());
        let began = Instant::now();
        loop {
            subject.orders.check(false)?;
            subject.hooks.check(false)?;
            subject.copy.check(false)?;
            let behind = |next: u64, due: u64| next < due;
            if !behind(subject.orders.next(), written)
                && !behind(subject.copy.next(), written)
                && !behind(subject.hooks.next(), stored)
            {
                return Ok(());
            }
            ensure!(
                began.elapsed() < e2e::PATIENCE,
                "{written} rows were written, {} and {} are there; {stored} posts were answered, {} are there",
                subject.orders.next(),
                subject.copy.next(),
                subject.hooks.next()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn watch(mut answer: Response, reads: bool) {
    if reads {
        while let Ok(Some(_)) = answer.chunk().await {}
    } else {
        // Open, and nobody at home.
        std::future::pending::<()>().await;
    }
}

/// Past the wire, for when there is none.
fn put(subject: &Subject, data: Value) -> Result<()> {
    let done = subject
        .setup
        .store
        .vault()
        .put("secret", e2e::setup::SECRET, data);
    done.map(drop).map_err(|error| anyhow::anyhow!("{error:?}"))
}

async fn delete(subject: &Subject, flag: &VaultFlag) -> Result<()> {
    let path = flag.api_path();
    let (status, answer) = subject.setup.store.vault().call("DELETE", path, Value::Null);
    ensure!(status.is_success(), "DELETE {path}: {status} {answer}");
    Ok(())
}
