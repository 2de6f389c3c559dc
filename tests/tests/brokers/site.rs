//! A folder with configurations in it, a flag in a file, and sidecars as processes.
use e2e::sidecar::Sidecar;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) struct Site {
    pub(crate) dir: TempDir,
    program: PathBuf,
}

impl Site {
    /// The flag says run; the sidecars are the tests' own build.
    pub(crate) fn new() -> Site {
        Site::of(Path::new(env!("CARGO_BIN_EXE_e2e-tidegate")))
    }

    /// The same with another build.
    pub(crate) fn of(program: &Path) -> Site {
        let site = Site {
            dir: TempDir::new().unwrap(),
            program: program.to_owned(),
        };
        site.flag(false);
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the flag that every sidecar of the site watches.
    pub(crate) fn flag(&self, paused: bool) {
        let new = self.path("flag.new");
        std::fs::write(&new, if paused { "true" } else { "false" }).unwrap();
        std::fs::rename(new, self.path("flag")).unwrap();
    }

    /// A sidecar of one stream, `orders`, with a state directory of its own.
    pub(crate) async fn sidecar(&self, name: &str, source: &str, sink: &str) -> Sidecar {
        let config = self.path(&format!("{name}.toml"));
        let text = format!(
            "state_dir = \"{dir}/{name}.state\"\n\
             [control]\nlisten = \"127.0.0.1:0\"\n[observe]\nlisten = \"127.0.0.1:0\"\n\
             [[switch]]\nname = \"ops\"\nstreams = [\"*\"]\ninterval = \"100ms\"\nfile = {{ path = \"{dir}/flag\" }}\n\
             [[stream]]\nname = \"orders\"\n[stream.source]\n{source}\n[stream.sink]\n{sink}\n",
            dir = self.dir.path().display(),
        );
        std::fs::write(&config, text).unwrap();
        let sidecar = Sidecar::start(&self.program, &config).unwrap();
        sidecar.addresses().await.unwrap();
        sidecar
    }

    /// Flips the flag and waits until every sidecar says so.
    pub(crate) async fn flip(&self, sidecars: &[&Sidecar], paused: bool) -> Duration {
        let started = Instant::now();
        self.flag(paused);
        for sidecar in sidecars {
            sidecar
                .becomes("orders", if paused { "paused" } else { "running" })
                .await
                .unwrap();
        }
        started.elapsed()
    }
}

/// Looks until something is so.
pub(crate) async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !so().await {
        assert!(started.elapsed() < e2e::PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A field of the stream in `/status`.
pub(crate) async fn field(sidecar: &Sidecar, name: &str) -> Value {
    sidecar.stream("orders").await.unwrap()[name].clone()
}

/// A number that a longer run raises.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(format!("TIDEGATE_BROKER_{name}")) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => default,
    }
}
