//! Every cell of the policy, at the store's wire: each way in which a switch gives no flag × what went before × what the
//! configuration says about it. One table of troubles for Vault and one for files; the outcome is computed by one
//! function from the contract's sentences, and by nothing of the product's.
mod file;
mod forgetful;
mod vault;

use crate::harness::{Client, Process, Running, Site, append, controllers, eventually, rows, text_of};
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};
use std::fmt;

/// What had been read before the trouble began.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    /// Nothing: it was there when the process started.
    Starting,
    Running,
    Paused,
}

/// Which option has a say.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// `on_missing`.
    Absent,
    /// `on_malformed`.
    Malformed,
    /// None but `on_stale`.
    NoHelp,
}

/// One switch's options.
#[derive(Clone, Copy, Debug)]
struct Options {
    at_start: &'static str,
    on_missing: &'static str,
    on_malformed: &'static str,
    /// `on_stale` where `max_stale` passes; without it, `max_stale` is an hour and `on_stale = "pause"`.
    stale: Option<&'static str>,
}

impl Options {
    fn all(before: Before) -> Vec<Options> {
        // Where a good reading came first, at_start has had its say.
        let starts: &[&str] = if before == Before::Starting {
            &["paused", "running"]
        } else {
            &["paused"]
        };
        // Each option alone, and those together that must not stand in each other's way.
        let choices = [
            ("keep", "keep", None),
            ("pause", "keep", None),
            ("keep", "pause", None),
            ("keep", "keep", Some("keep")),
            ("keep", "keep", Some("pause")),
            ("pause", "pause", Some("keep")),
        ];
        let mut all = Vec::new();
        for at_start in starts {
            all.extend(choices.map(|(on_missing, on_malformed, stale)| Options {
                at_start,
                on_missing,
                on_malformed,
                stale,
            }));
        }
        all
    }

    fn toml(&self, timeout: &str) -> String {
        let Options {
            at_start,
            on_missing,
            on_malformed,
            stale,
        } = self;
        let stale = match stale {
            // The other switches on the secret ask for more patience with one read, and the longest counts.
            Some(on_stale) => format!("timeout = \"50ms\"\nmax_stale = \"150ms\"\non_stale = \"{on_stale}\""),
            None => format!("timeout = \"{timeout}\"\nmax_stale = \"1h\"\non_stale = \"pause\""),
        };
        format!(
            "at_start = \"{at_start}\"\non_missing = \"{on_missing}\"\non_malformed = \"{on_malformed}\"\n{stale}"
        )
    }

    /// Whether the stream is held while the trouble lasts.
    fn held(&self, before: Before, kind: Kind) -> bool {
        match before {
            // "Nothing ever resumes because something went away."
            Before::Paused => true,
            // "Until its first good reading a switch holds."
            Before::Starting if self.at_start == "paused" => true,
            // "Keep the last good reading", unless an option that is meant for this says otherwise.
            Before::Starting | Before::Running => {
                kind == Kind::Absent && self.on_missing == "pause"
                    || kind == Kind::Malformed && self.on_malformed == "pause"
                    || self.stale == Some("pause")
            }
        }
    }
}

/// A secret store with one flag in it.
trait Store: Copy + fmt::Debug + Send + Sync {
    /// What status calls the reading while the trouble lasts, and which option has a say.
    fn shows(&self) -> (&'static str, Kind);
    /// The switch's provider, as the configuration names it.
    fn provider(&self, site: &Site) -> String;
    /// How long one read may take.
    fn patience(&self) -> &'static str;
    /// Before anything else.
    fn prepare(&self, site: &Site);
    fn flag(&self, site: &Site, paused: bool);
    async fn spoil(&self, site: &Site);
    async fn mend(&self, site: &Site);
    async fn start(&self, site: &Site) -> Sidecar {
        Sidecar::Here(Running::start(site).await)
    }
}

#[allow(clippy::large_enum_variant, reason = "one at a time, and short-lived")]
enum Sidecar {
    Here(Running),
    Process(Process, Client),
}

impl Sidecar {
    fn client(&self) -> &Client {
        match self {
            Sidecar::Here(running) => &running.client,
            Sidecar::Process(_, client) => client,
        }
    }

    async fn stop(self) {
        match self {
            Sidecar::Here(running) => drop(running.stop().await),
            Sidecar::Process(process, _) => {
                process.terminate();
                assert_eq!(process.end().await.code, Some(0));
            }
        }
    }
}

/// Whether each stream is held by its own switch, or by nobody, as its options say.
fn judged(status: &Value, all: &[Options], held: &[bool]) -> Result<(), String> {
    for (n, options) in all.iter().enumerate() {
        let stream = &status["streams"][n];
        let own = format!("switch:{}", status["switches"][n]["name"].as_str().unwrap());
        let expected = if held[n] { vec![own.as_str()] } else { vec![] };
        if controllers(stream) != expected {
            return Err(format!(
                "{options:?}: expected to be held by {expected:?}: {stream:#}"
            ));
        }
    }
    Ok(())
}

/// All options of one trouble after one beginning: a switch and a stream for each, in one process. An error is a
/// decision that should have been another.
async fn cell(store: impl Store, before: Before) -> Result<(), String> {
    let at = |name: &str| format!("{store:?} after {before:?}: {name}");
    let mut site = Site::new().await;
    store.prepare(&site);
    let provider = store.provider(&site);
    let all = Options::all(before);
    let names: Vec<String> = (0..all.len()).map(|n| format!("s{n}")).collect();
    for (name, options) in names.iter().zip(&all) {
        let options = options.toml(store.patience());
        site.add(&format!(
            "[[switch]]\nname = \"{name}\"\nstreams = [\"{name}\"]\ninterval = \"100ms\"\nretry_max = \"200ms\"\n{options}\n{provider}"
        ));
        site.file_stream(name);
        append(&site.source(name), &rows(0..1));
    }
    store.flag(&site, before == Before::Paused);
    if before == Before::Starting {
        store.spoil(&site).await;
    }
    let sidecar = store.start(&site).await;
    let client = sidecar.client();

    let states_are = |states: Vec<&'static str>| {
        let at = at(&format!("{states:?}"));
        async move {
            eventually(&at, async || {
                let status = client.status().await;
                let streams = status["streams"].as_array().unwrap();
                let reached = streams
                    .iter()
                    .zip(&states)
                    .all(|(stream, state)| stream["state"] == *state);
                reached.then_some(status)
            })
            .await
        }
    };
    let sinks = || {
        names
            .iter()
            .map(|name| text_of(&site.sink(name)))
            .collect::<Vec<_>>()
    };
    let sinks_are = |expected: Vec<String>| {
        let at = at("the rows");
        async move { eventually(&at, async || (sinks() == expected).then_some(())).await }
    };

    if before != Before::Starting {
        let (state, moved) = if before == Before::Paused {
            ("paused", 0)
        } else {
            ("running", 1)
        };
        // Held by a reading, not by the start.
        eventually(&at("a first good reading"), async || {
            let status = client.status().await;
            let switches = status["switches"].as_array().unwrap();
            switches.iter().all(|s| s["reading"] == state).then_some(())
        })
        .await;
        states_are(vec![state; all.len()]).await;
        sinks_are(vec![rows(0..moved); all.len()]).await;
        store.spoil(&site).await;
    }

    let (reading, kind) = store.shows();
    // A flag that is read is never too old.
    let too_old = |options: &Options| options.stale.is_some() && reading != "running";
    let status = eventually(&at(reading), async || {
        let status = client.status().await;
        let mut switches = status["switches"].as_array().unwrap().iter().zip(&all);
        let shown = switches.all(|(s, options)| s["reading"] == reading && s["stale"] == too_old(options));
        shown.then_some(status)
    })
    .await;
    let held: Vec<bool> = all.iter().map(|options| options.held(before, kind)).collect();
    // A reading is shown once its hold stands, so that there is nothing to wait for.
    judged(&status, &all, &held).map_err(|why| at(&why))?;
    let states: Vec<&str> = held
        .iter()
        .map(|held| if *held { "paused" } else { "running" })
        .collect();
    states_are(states.clone()).await;
    let when_held = sinks();
    for (n, options) in all.iter().enumerate().filter(|(n, _)| held[*n]) {
        let moved = when_held[n].lines().count();
        let expected = match before {
            Before::Running => 1..=1,
            Before::Paused => 0..=0,
            Before::Starting if options.at_start == "paused" => 0..=0,
            // It ran until it was read for the first time.
            Before::Starting => 0..=1,
        };
        assert!(
            expected.contains(&moved),
            "{}",
            at(&format!("{options:?} moved {moved} rows"))
        );
    }

    for name in &names {
        append(&site.source(name), &rows(1..2));
    }
    let expected = |n: usize| if held[n] { when_held[n].clone() } else { rows(0..2) };
    let expected: Vec<String> = (0..all.len()).map(expected).collect();
    sinks_are(expected.clone()).await;
    // More of the same changes nothing, and what is wrong is said.
    for _ in 0..2 {
        client.poll().await;
    }
    let status = client.status().await;
    judged(&status, &all, &held).map_err(|why| at(&why))?;
    assert_eq!(sinks(), expected, "{}", at("the rows, two polls later"));
    for (n, options) in all.iter().enumerate() {
        let (stream, switch) = (&status["streams"][n], &status["switches"][n]);
        let here = at(&format!("{options:?}: {stream:#} {switch:#}"));
        assert_eq!(stream["state"], states[n], "{here}");
        assert!(!held[n] || stream["in_flight"] == 0, "{here}");
        let error = switch["error"].as_str().unwrap_or_default();
        assert!(error.contains(&names[n]), "the error names the switch: {here}");
        // Ready is who has had a reading, or does not wait for one.
        let settled = before != Before::Starting || options.at_start == "running";
        assert_eq!(switch["settled"], settled, "{here}");
    }
    let ready = if before == Before::Starting { 503 } else { 200 };
    assert_eq!(client.observe("/readyz").await.0, ready, "{}", at("ready"));
    assert_eq!(client.observe("/livez").await.0, 200, "{}", at("alive"));

    store.mend(&site).await;
    store.flag(&site, false);
    let status = states_are(vec!["running"; all.len()]).await;
    sinks_are(vec![rows(0..2); all.len()]).await;
    for n in 0..all.len() {
        assert_eq!(status["streams"][n]["holds"], json!([]), "{}", at("mended"));
        assert_eq!(status["switches"][n]["error"], Value::Null, "{}", at("mended"));
    }
    assert_eq!(client.observe("/readyz").await.0, 200, "{}", at("mended"));
    sidecar.stop().await;
    Ok(())
}

async fn all_cells(stores: &[impl Store]) {
    let cells = stores.iter().flat_map(|store| {
        [Before::Starting, Before::Running, Before::Paused].map(|before| cell(*store, before))
    });
    // Nearly all of a cell is waiting for the next poll.
    let outcomes: Vec<Result<(), String>> = stream::iter(cells).buffer_unordered(8).collect().await;
    let wrong: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert_eq!(wrong, [""; 0]);
}
