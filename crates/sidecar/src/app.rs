//! One process, put together: build, then run, then stop in the right order.
use crate::config::{self, Config};
use crate::history;
use crate::remember::Memory;
use crate::state_file::StateFile;
use anyhow::{Context, Result};
use futures_util::FutureExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tidegate_admin::{
    Access, Admin, ControlOptions, Examination, Hooks, Metrics, ObserveOptions, Options, TokenSpec, limits,
};
use tidegate_gate::{Clock, Flag, Holds, Kind, Moment, Name, Reading, State, Version};
use tidegate_http::{Address, GateConfig, HttpGate, Limits, Listener, Tls};
use tidegate_providers::{Examined, Nudger, Observer, Poller};
use tidegate_runtime::{Outcome, Report, StateDir, Stream, Supervisor, herald};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What is left of `shutdown_grace` for the listeners once the streams have stopped.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A process that is built: everything is bound and every hold of the start is placed, and nothing runs yet.
pub struct App {
    holds: Arc<Holds>,
    metrics: Metrics,
    admin: Admin,
    control: Listener,
    observe: Listener,
    poller: Poller,
    nudger: Nudger,
    streams: Vec<Stream>,
    gates: Vec<(HttpGate, Listener)>,
    memory: Option<Memory>,
    state: Option<StateDir>,
    state_file: Option<StateFile>,
    shutdown_grace: Duration,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ending {
    /// What became of each stream.
    pub streams: Vec<Report>,
}

impl Ending {
    /// Events that were read, not written, and cannot be read again, or whose write was cut short.
    pub fn unfinished(&self) -> bool {
        self.streams
            .iter()
            .any(|r| r.unreturned > 0 || r.outcome == Outcome::CutShort)
    }
}

/// Tokio's clock, so that tests can pause it, beside the wall's.
pub fn clock() -> Clock {
    Clock::new(|| Moment {
        wall: SystemTime::now(),
        mono: tokio::time::Instant::now().into_std(),
    })
}

impl App {
    /// Binds both listeners, builds the streams and places the holds that stand from the start.
    pub async fn build(config: &Config, clock: Clock) -> Result<App> {
        let holds = Holds::new(clock);
        let state = config
            .state_dir
            .as_ref()
            .map(StateDir::open)
            .transpose()
            .context("state_dir")?;
        let streams = config
            .streams
            .iter()
            .map(|s| tidegate_runtime::build(&s.config, &holds, state.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;

        let mut gates = Vec::new();
        for entry in &config.gates {
            let told = || format!("gate \"{}\"", entry.name);
            let gate = gate_config(entry);
            let serves = gate.on_hold.serves();
            let member = holds.register(entry.name.clone(), Kind::Gate { serves })?;
            let listener = Listener::bind(&entry.listen, None, Limits::default())
                .await
                .with_context(told)?;
            gates.push((HttpGate::new(member, &gate).with_context(told)?, listener));
        }

        if let Some(told) = &config.state_file {
            StateFile::publish(&holds, &told.publish)?;
        }

        let memory = state
            .as_ref()
            .map(Memory::open)
            .transpose()
            .context("state_dir")?;
        if let Some(memory) = &memory {
            memory.restore_holds(&holds).context("state_dir")?;
        }
        let metrics = Metrics::new(holds.clone(), env!("CARGO_PKG_VERSION"));
        let switches = config
            .switches
            .iter()
            .map(|s| {
                let (mut switch, provider) = s
                    .config
                    .build(s.streams.clone())
                    .with_context(|| format!("switch \"{}\"", s.config.name))?;
                switch.last = memory.as_ref().and_then(|m| m.last_reading(&switch.name));
                Ok((switch, provider))
            })
            .collect::<Result<Vec<_>>>()?;
        let eyes = Eyes {
            metrics: metrics.clone(),
            memory: memory.clone(),
        };
        let poller = Poller::bind(holds.clone(), switches, fastrand::u64(..), eyes)?;
        let nudger = poller.nudger();

        // Before anything runs: what the last process left may still count, and knows nothing of the holds of this start.
        let state_file = config
            .state_file
            .as_ref()
            .map(|told| {
                let file = StateFile::at(&told.path);
                let written = file.write(&holds.snapshot());
                written.with_context(|| format!("state_file: {} cannot be written", told.path.display()))?;
                Ok::<_, anyhow::Error>(file)
            })
            .transpose()?;

        let tls = control_tls(&config.control)?;
        let poll = nudger.clone();
        let examiner = poller.examiner();
        let hooks = Hooks {
            poll: Arc::new(move || {
                let nudger = poll.clone();
                async move { nudger.poll_now().await }.boxed()
            }),
            examine: Arc::new(move || {
                let examiner = examiner.clone();
                async move { examiner.examine().await.into_iter().map(examination).collect() }.boxed()
            }),
            kept: match memory.clone() {
                Some(memory) => {
                    let holds = holds.clone();
                    Arc::new(move || {
                        let (memory, holds) = (memory.clone(), holds.clone());
                        async move { memory.kept(&holds).await }.boxed()
                    })
                }
                None => Hooks::default().kept,
            },
            past: state.as_ref().map(|state| history::reader(state.path())),
        };
        let options = admin_options(config, tls.clone());
        let admin = Admin::new(holds.clone(), metrics.clone(), options, hooks)?;
        let control = Listener::bind(&config.control.listen, tls, limits())
            .await
            .context("the control listener")?;
        let observe = Listener::bind(&config.observe.listen, None, limits())
            .await
            .context("the observe listener")?;
        Ok(App {
            holds,
            metrics,
            admin,
            control,
            observe,
            poller,
            nudger,
            streams,
            gates,
            memory,
            state,
            state_file,
            shutdown_grace: config.shutdown_grace,
        })
    }

    /// The board.
    pub fn holds(&self) -> &Arc<Holds> {
        &self.holds
    }

    /// The metrics, for the audit's count of lost lines.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A handle that makes every switch poll now.
    pub fn nudger(&self) -> Nudger {
        self.nudger.clone()
    }

    /// Where the control API answers.
    pub fn control(&self) -> &Address {
        self.control.local()
    }

    /// Where probes and metrics answer.
    pub fn observe(&self) -> &Address {
        self.observe.local()
    }

    /// Runs until `stop`, or until every stream has come to its end by itself; then stops, within the grace.
    ///
    /// A stream that failed keeps the process up, so that somebody can see why.
    pub async fn run(self, stop: CancellationToken) -> Ending {
        // The surfaces outlive the streams: whoever stops the process may still ask what is left.
        let surfaces = CancellationToken::new();
        let polling = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(herald(self.holds.clone(), surfaces.clone()));
        let admin = self.admin.clone();
        tasks.spawn({
            let surfaces = surfaces.clone();
            async move { admin.run(surfaces).await }
        });
        tasks.spawn(self.control.serve(self.admin.control(), surfaces.clone()));
        tasks.spawn(self.observe.serve(self.admin.observe(), surfaces.clone()));
        let mut keepers = JoinSet::new();
        if let Some(memory) = self.memory {
            keepers.spawn(memory.keep(self.holds.clone(), surfaces.clone()));
        }
        if let Some(state) = self.state {
            let read = history::reader(state.path());
            tasks.spawn(history::recall_drills(self.admin.clone(), read));
            keepers.spawn(history::keep(self.holds.clone(), state, surfaces.clone()));
        }
        if let Some(file) = self.state_file {
            keepers.spawn(file.keep(self.holds.clone(), surfaces.clone()));
        }
        for task in self.poller.tasks(&polling) {
            tasks.spawn(task);
        }
        let serving = CancellationToken::new();
        let mut gates = JoinSet::new();
        let handles: Vec<HttpGate> = self.gates.iter().map(|(gate, _)| gate.clone()).collect();
        for (gate, listener) in self.gates {
            let serving = serving.clone();
            gates.spawn(async move { gate.serve(listener, serving).await });
        }
        let supervisor = Supervisor::spawn(self.holds.clone(), self.streams);

        tokio::select! {
            () = stop.cancelled() => {}
            () = all_ended_well(&supervisor, &self.holds) => {}
        }
        let deadline = Instant::now() + self.shutdown_grace;
        // Streams close at once. Gates serve on while balancers take notice, then finish what they have begun.
        let closing = async {
            self.admin.close().await;
            handles.iter().for_each(HttpGate::close);
            serving.cancel();
            while gates.join_next().await.is_some() {}
        };
        let (streams, drained) = tokio::join!(
            supervisor.stop(self.shutdown_grace),
            tokio::time::timeout(self.shutdown_grace, closing),
        );
        if drained.is_err() {
            tracing::error!("shutdown_grace is over: requests that the gates still forward are cut short");
        }
        polling.cancel();
        surfaces.cancel();
        let ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_ANSWERS, ended).await.is_err() {
            tracing::debug!("connections that were still open are closed");
        }
        // What was asked to be remembered is on the disk before the next process may take the folder over.
        let kept = async { while keepers.join_next().await.is_some() {} };
        let last = Instant::now() + LAST_ANSWERS;
        if tokio::time::timeout_at(last.max(deadline), kept).await.is_err() {
            tracing::error!(
                "shutdown_grace is over, and the disk has not taken what state_dir should remember"
            );
        }
        Ending { streams }
    }
}

async fn all_ended_well(supervisor: &Supervisor, holds: &Holds) {
    supervisor.all_ended().await;
    let snapshot = holds.snapshot();
    // Without streams there is nothing that could come to an end.
    if snapshot.streams.is_empty() || snapshot.streams.iter().any(|s| s.state != State::Stopped) {
        std::future::pending::<()>().await;
    }
}

/// What the poll loops tell the rest of the process.
struct Eyes {
    metrics: Metrics,
    memory: Option<Memory>,
}

impl Observer for Eyes {
    fn polled(&self, switch: &Name, reading: &Reading, took: Duration) {
        self.metrics.poll_outcome(switch, reading.word(), took);
    }

    fn good(&self, switch: &Name, flag: &Flag, version: &Version) {
        if let Some(memory) = &self.memory {
            memory.note_reading(switch, flag, version);
        }
    }
}

/// What the providers found, in the words of the control API: neither knows the other.
fn examination(found: Examined) -> Examination {
    Examination {
        switch: found.switch,
        streams: found.streams,
        reading: found.seen.reading.word(),
        error: found.seen.error,
        took: found.took,
        interval: found.interval,
        old: found.old,
        access: match found.access {
            tidegate_providers::Access::ReadOnly => Access::ReadOnly,
            tidegate_providers::Access::Writes(how) => Access::Writes(how),
            tidegate_providers::Access::Unknown(why) => Access::Unknown(why),
        },
        acts: found.acts,
    }
}

fn control_tls(control: &config::Control) -> Result<Option<Tls>> {
    let load = |files: &config::TlsFiles| Tls::load(&files.cert_file, &files.key_file);
    control
        .tls
        .as_ref()
        .map(load)
        .transpose()
        .context("[control] tls")
}

fn gate_config(entry: &config::GateEntry) -> GateConfig {
    GateConfig {
        on_hold: entry.on_hold,
        on_hold_upgraded: entry.on_hold_upgraded,
        max_waiting: entry.max_waiting,
        max_wait: entry.max_wait,
        bypass: entry.bypass.clone(),
        ..GateConfig::new(&*entry.name, entry.listen.clone(), entry.upstream.as_str())
    }
}

fn admin_options(config: &Config, tls: Option<Tls>) -> Options {
    let token = |token: &config::Token| TokenSpec {
        name: token.name.to_string(),
        file: token.file.clone(),
        allow: token.allow.clone(),
    };
    Options {
        control: ControlOptions {
            base_path: config.control.base_path.clone(),
            tokens: config.control.tokens.iter().map(token).collect(),
            hosts: config.control.hosts.clone(),
            tls,
            ..ControlOptions::default()
        },
        observe: ObserveOptions {
            ready_while_paused: config.observe.ready_while_paused,
        },
        drain_delay: config.drain_delay,
        disk: config.state_dir.clone().unwrap_or_else(|| ".".into()),
    }
}
