//! The two processes, the store that both watch, and what moves through them.
use crate::Plant;
use crate::ledger::Ledger;
use crate::load::{self, Done};
use anyhow::{Context, Result, ensure};
use e2e::proc;
use e2e::setup::{SECRET, Setup};
use e2e::sidecar::Sidecar;
use reqwest::Client;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the steady process hosts.
pub(crate) const STREAMS: [&str; 3] = ["orders", "hooks", "app"];
/// What the other one hosts.
pub(crate) const MORTAL: &str = "copy";
/// Rows per 50 ms in each followed file.
const ROWS: u64 = 10;

pub(crate) struct Subject {
    pub(crate) setup: Setup,
    pub(crate) client: Client,
    pub(crate) steady: Sidecar,
    pub(crate) mortal: Option<Sidecar>,
    pub(crate) orders: Ledger,
    pub(crate) hooks: Ledger,
    pub(crate) copy: Ledger,
    pub(crate) written: Done,
    pub(crate) stored: Done,
    pub(crate) served: Vec<Done>,
    pub(crate) reached: Done,
    pub(crate) kills: u64,
    pub(crate) terms: u64,
}

/// What the steady process has open.
pub(crate) struct Open {
    pub(crate) descriptors: f64,
    pub(crate) tasks: f64,
}

impl Subject {
    pub(crate) async fn start(plant: Option<Plant>) -> Result<Subject> {
        let setup = Setup::new().await?;
        let (upstream, reached) = load::app().await?;
        std::fs::write(setup.path("local"), "false")?;
        let steady = setup.path("steady.toml");
        std::fs::write(&steady, steady_config(&setup, &upstream, plant))?;
        std::fs::write(setup.path("mortal.toml"), mortal_config(&setup))?;
        let files = ["orders.in", "copy.in"].map(|name| setup.path(name)).to_vec();
        let gap = (plant == Some(Plant::Loss)).then_some(4_000);
        let written = load::append(files, ROWS, gap)?;
        if plant == Some(Plant::Memory) {
            load::append(vec![setup.path("keys.in")], 500, None)?;
        }
        let subject = Subject {
            client: e2e::flag::client()?,
            steady: Sidecar::start(program(), &steady)?,
            mortal: None,
            orders: Ledger::new(setup.path("orders.out")),
            hooks: Ledger::new(setup.path("hooks.out")),
            copy: Ledger::new(setup.path("copy.out")),
            written,
            stored: load::post(setup.path("hooks.sock")),
            served: (0..3).map(|_| load::request(setup.path("app.sock"))).collect(),
            reached,
            kills: 0,
            terms: 0,
            setup,
        };
        subject.become_all(&subject.steady, &STREAMS, "running").await?;
        Ok(subject)
    }

    pub(crate) fn start_mortal(&self) -> Result<Sidecar> {
        Sidecar::start(program(), &self.setup.path("mortal.toml"))
    }

    /// Waits until all these are in that state; says how long that took.
    pub(crate) async fn become_all(&self, of: &Sidecar, names: &[&str], state: &str) -> Result<Duration> {
        let began = Instant::now();
        of.status_until(&format!("{names:?} are {state}"), |status| {
            let streams = status["streams"].as_array();
            let there = |name: &&str| {
                streams
                    .into_iter()
                    .flatten()
                    .any(|s| s["name"] == **name && s["state"] == state)
            };
            names.iter().all(there)
        })
        .await?;
        Ok(began.elapsed())
    }

    /// Descriptors and tasks of the steady process.
    pub(crate) async fn look(&self) -> Result<Open> {
        let metrics = self.steady.metrics().await?;
        let tasks = metrics
            .lines()
            .find_map(|line| line.strip_prefix("tidegate_tasks "));
        Ok(Open {
            descriptors: proc::descriptors(self.steady.pid()?)? as f64,
            tasks: tasks.context("tidegate_tasks")?.trim().parse()?,
        })
    }

    /// What the steady process has in its state_dir.
    pub(crate) fn state_kib(&self) -> Result<f64> {
        fn bytes(path: &Path) -> std::io::Result<u64> {
            let mut sum = 0;
            for entry in std::fs::read_dir(path)? {
                let entry = entry?;
                match entry.metadata() {
                    Ok(meta) if meta.is_dir() => sum += bytes(&entry.path())?,
                    Ok(meta) => sum += meta.len(),
                    // Replaced meanwhile.
                    Err(_) => {}
                }
            }
            Ok(sum)
        }
        Ok(bytes(&self.setup.path("steady.state"))? as f64 / 1024.0)
    }

    /// A call to the steady process's control API.
    pub(crate) async fn call(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        let (control, _) = self.steady.addresses().await?;
        let request = self.client.post(format!("http://{control}{path}"));
        let answer = request
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await?;
        let status = answer.status().as_u16();
        Ok((status, serde_json::from_slice(&answer.bytes().await?)?))
    }

    pub(crate) fn counts(&self) -> String {
        let served: u64 = self.served.iter().map(Done::get).sum();
        format!(
            "rows {} + {}, posted {}, requests {served}, kills {} + {} stops",
            self.orders.next(),
            self.copy.next(),
            self.stored.get(),
            self.kills,
            self.terms,
        )
    }

    /// Stops both; everything that was written and answered must be there.
    pub(crate) async fn finish(mut self) -> Result<String> {
        self.setup.flag.write(false).await?;
        let stored = self.stored.get();
        for (name, process) in [("mortal", self.mortal.take()), ("steady", Some(self.steady))] {
            let Some(process) = process else { continue };
            let ended = process.stop().await?;
            ensure!(ended.success(), "the {name} process ended with {ended}");
        }
        for ledger in [&mut self.orders, &mut self.hooks, &mut self.copy] {
            ledger.check(false)?;
        }
        ensure!(
            self.hooks.next() >= stored,
            "{stored} posts were answered 200 and {} are there",
            self.hooks.next()
        );
        let served: u64 = self.served.iter().map(Done::get).sum();
        Ok(format!(
            "rows {} + {} ({} of them again after {} kills and {} stops), {stored} posts, {served} requests: each once, in order",
            self.orders.next(),
            self.copy.next(),
            self.copy.again,
            self.kills,
            self.terms,
        ))
    }
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_e2e-tidegate"))
}

fn switch(setup: &Setup) -> String {
    format!(
        "[control]\nlisten = \"127.0.0.1:0\"\n[observe]\nlisten = \"127.0.0.1:0\"\n\
         [[switch]]\nname = \"ops\"\nstreams = [\"*\"]\ninterval = \"200ms\"\ntimeout = \"2s\"\nretry_max = \"2s\"\n\
         [switch.vault]\npath = \"{SECRET}\"\naddress = \"{}\"\nauth = {{ method = \"token\", file = \"{}\" }}\n",
        setup.store.vault_url(),
        setup.path("token").display(),
    )
}

fn state(setup: &Setup, name: &str) -> String {
    let path: PathBuf = setup.path(&format!("{name}.state"));
    format!("state_dir = \"{}\"\n", path.display())
}

fn steady_config(setup: &Setup, upstream: &str, plant: Option<Plant>) -> String {
    let dir = setup.dir.path().display();
    let mut text = format!(
        "{}{}\
         [[switch]]\nname = \"local\"\nstreams = [\"orders\"]\ninterval = \"200ms\"\nfile = {{ path = \"{dir}/local\" }}\n\
         {}\
         [[stream]]\nname = \"hooks\"\n\
         source = {{ type = \"http\", listen = \"unix:{dir}/hooks.sock\", path = \"/\" }}\n\
         sink = {{ type = \"file\", path = \"{dir}/hooks.out\" }}\n\
         [[gate]]\nname = \"app\"\nlisten = \"unix:{dir}/app.sock\"\nupstream = \"{upstream}\"\non_hold = \"hold\"\n",
        state(setup, "steady"),
        switch(setup),
        setup.file_to_file("orders"),
    );
    if plant == Some(Plant::Memory) {
        text += &format!(
            "[[stream]]\nname = \"keys\"\n\
             source = {{ type = \"file\", path = \"{dir}/keys.in\", follow = true }}\n\
             sink = {{ type = \"file\", path = \"{dir}/keys.out\" }}\n\
             [[stream.stage]]\ntype = \"count\"\nby = \".n\"\nmax_keys = 100000000\n"
        );
    }
    text
}

fn mortal_config(setup: &Setup) -> String {
    format!(
        "{}{}{}",
        state(setup, "mortal"),
        switch(setup),
        setup.file_to_file(MORTAL)
    )
}
