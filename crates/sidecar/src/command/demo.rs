//! `tidegate demo`: the whole path on one screen. An embedded store, a stream of this host's readings from one file
//! into another, and the very configuration that `tidegate run` would take.
use super::devstore::{start, write_flag};
use super::{complain, signals::stop_on_signal};
use crate::app::{App, clock};
use crate::cli::{DemoArgs, exit};
use crate::config;
use crate::console::{self, Style};
use crate::demo::Host;
use anyhow::{Context, Result};
use secrecy::ExposeSecret;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidegate_devstore::DevStore;
use tidegate_gate::Holds;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

/// Where the demo's flag is.
const SECRET: &str = "streams/demo";
/// Between two readings of the host: enough to see a rate, too little to be noticed.
const EVERY: Duration = Duration::from_millis(10);

pub(super) async fn demo(args: &DemoArgs) -> Result<u8> {
    let stop = stop_on_signal()?;
    let host = Host::new()?;
    let store = match start(args.store_listen, None).await {
        Ok(store) => store,
        Err(why) => {
            complain(&why);
            return Ok(exit::UNAVAILABLE);
        }
    };
    store
        .vault()
        .put("secret", SECRET, serde_json::json!({ "IsPaused": false }))
        .context("the dev store")?;
    let dir = tempfile::Builder::new()
        .prefix("tidegate-demo-")
        .tempdir()
        .context("a folder for the demo")?;
    let text = configuration(dir.path(), &store, args)?;
    let file = dir.path().join("tidegate.toml");
    std::fs::write(&file, &text).with_context(|| format!("writing {}", file.display()))?;
    let config = config::load(&file)?;
    let app = match App::build(&config, clock()).await {
        Ok(app) => app,
        Err(error) => {
            complain(&format!(
                "{error:#}; --control-listen and --observe-listen choose other ports"
            ));
            return Ok(exit::UNAVAILABLE);
        }
    };

    introduce(&store, &app, dir.path());
    let told = CancellationToken::new();
    let telling = tokio::spawn(console::draw(
        app.holds().clone(),
        std::io::stdout(),
        Style::of_stdout(),
        told.clone(),
    ));
    let sampling = tokio::spawn(sample(host, dir.path().join("readings.jsonl"), stop.clone()));
    flip_on_enter(store.clone(), app.holds().clone());
    let ending = app.run(stop).await;
    told.cancel();
    // Both end when told; a panic in one has been logged.
    let _ = tokio::join!(telling, sampling);
    store.stop().await;
    Ok(if ending.unfinished() {
        exit::TEMPORARY
    } else {
        exit::OK
    })
}

fn configuration(dir: &Path, store: &DevStore, args: &DemoArgs) -> Result<String> {
    let token = dir.join("token");
    std::fs::write(&token, store.root_token().expose_secret()).context("writing the store's token")?;
    std::fs::write(dir.join("readings.jsonl"), "").context("making the file of readings")?;
    Ok(format!(
        "[control]\nlisten = \"{control}\"\n\n\
         [observe]\nlisten = \"{observe}\"\n\n\
         [[switch]]\nname = \"demo\"\nstreams = [\"*\"]\ninterval = \"250ms\"\n\
         [switch.vault]\naddress = \"{store}\"\npath = \"{SECRET}\"\n\
         auth = {{ method = \"token\", file = \"{token}\" }}\n\n\
         [[stream]]\nname = \"host\"\n\
         [stream.source]\ntype = \"file\"\npath = \"{dir}/readings.jsonl\"\nfollow = true\n\
         [stream.sink]\ntype = \"file\"\npath = \"{dir}/moved.jsonl\"\n",
        control = args.control_listen,
        observe = args.observe_listen,
        store = store.vault_url(),
        token = token.display(),
        dir = dir.display(),
    ))
}

fn introduce(store: &DevStore, app: &App, dir: &Path) {
    let text = format!(
        "\
A stream of this host's readings moves through a gate, and a secret decides whether it may.

  secret    {url}/v1/secret/data/{SECRET} (a dev store in this process)
  stream    {dir}/readings.jsonl -> {dir}/moved.jsonl
  control   http://{control}   (status, pause, resume; `tidegate status` asks it)
  observe   http://{observe}   (/livez, /readyz, /metrics)
  config    {dir}/tidegate.toml

Press Enter to flip the secret, or do it from another terminal. This pauses, with curl or with Vault's own client:

{pause}
VAULT_ADDR={url} VAULT_TOKEN={token} vault kv put secret/{SECRET} IsPaused=true

This resumes:

{resume}
VAULT_ADDR={url} VAULT_TOKEN={token} vault kv put secret/{SECRET} IsPaused=false

Ctrl-C ends it.

",
        url = store.vault_url(),
        token = store.root_token().expose_secret(),
        dir = dir.display(),
        control = app.control(),
        observe = app.observe(),
        pause = write_flag(store, SECRET, true),
        resume = write_flag(store, SECRET, false),
    );
    // Where nobody reads, the demo runs on: its endpoints can still be asked.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Appends a reading every [`EVERY`] until `stop`.
async fn sample(mut host: Host, path: std::path::PathBuf, stop: CancellationToken) -> Result<()> {
    let mut file = tokio::fs::OpenOptions::new().append(true).open(&path).await?;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let mut line = host.read()?;
        line.push('\n');
        file.write_all(line.as_bytes()).await?;
        file.flush().await?;
    }
}

/// Flips the secret at each line of standard input. Its end means nothing: a demo in the background has none.
fn flip_on_enter(store: DevStore, holds: Arc<Holds>) {
    // A thread of its own: it sits in read(2) until the process ends.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if line.is_err() {
                return;
            }
            // What was last read, not what Enter last wrote: somebody may have used curl in between.
            let pause = holds
                .snapshot()
                .switch("demo")
                .is_none_or(|s| s.reading != "paused");
            let flag = serde_json::json!({ "IsPaused": pause, "by": "Enter" });
            if let Err(error) = store.vault().put("secret", SECRET, flag) {
                complain(&format!("the flip failed: {error}"));
            }
        }
    });
}
