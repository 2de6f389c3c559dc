//! Every cell of the policy, at the store's wire: each way in which a switch gives no flag × what went before × what the
//! configuration says about it. A table of troubles for each store; the outcome is computed by one function from the
//! contract's sentences, and by nothing of the product's.
//!
//! One way to come to a reading (its *model*) is tried with the whole product of the options, since what is decided
//! depends on the reading and not on how it came about; that the other ways come to the same reading is what their
//! cells show, with each option alone and with those together that must not stand in each other's way. Two options are
//! left out of the product: `at_start` where the process itself has had a good reading, for it has had its say then,
//! and `on_expiry`, which says what a good reading past `until` means (`expiry.rs`).
mod expiry;
mod file;
mod forgetful;
mod key_vault;
mod vault;

use crate::harness::{Client, Process, Running, Site, append, controllers, eventually, rows, text_of};
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};
use std::fmt;

/// What had been read before the trouble began.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    /// Nothing: it was there when the process started, and nothing was remembered.
    Starting,
    /// It was there when the process started, and the process before it had left its last reading in `state_dir`.
    RestartedRunning,
    RestartedPaused,
    Running,
    Paused,
}

impl Before {
    const ALL: [Before; 5] = [
        Before::Starting,
        Before::RestartedRunning,
        Before::RestartedPaused,
        Before::Running,
        Before::Paused,
    ];

    /// The flag that was read.
    fn paused(self) -> bool {
        matches!(self, Before::Paused | Before::RestartedPaused)
    }

    /// The trouble was there before this process could read anything.
    fn unread(self) -> bool {
        !matches!(self, Before::Running | Before::Paused)
    }

    fn restarted(self) -> bool {
        matches!(self, Before::RestartedRunning | Before::RestartedPaused)
    }
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
    /// What is tried after one beginning; a group is what one process tries at once.
    fn groups(before: Before, model: bool) -> Vec<Vec<Options>> {
        let starts: &[&'static str] = match before {
            Before::Starting => &["paused", "running", "last"],
            // What was remembered is for "last", and the option that says the opposite does not look at it.
            Before::RestartedRunning => &["paused", "last"],
            Before::RestartedPaused => &["running", "last"],
            Before::Running | Before::Paused => &["paused"],
        };
        let choices = if model { whole() } else { some() };
        let group = |at_start: &&'static str| -> Vec<Options> {
            let of = |&(on_missing, on_malformed, stale): &Choice| Options {
                at_start,
                on_missing,
                on_malformed,
                stale,
            };
            choices.iter().map(of).collect()
        };
        let groups: Vec<Vec<Options>> = starts.iter().map(group).collect();
        match model {
            true => groups,
            // Few enough for one process.
            false => vec![groups.concat()],
        }
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

    /// Whether the switch may call itself settled before its first good reading.
    fn settled(&self, before: Before) -> bool {
        !before.unread()
            || match self.at_start {
                "paused" => false,
                "running" => true,
                _ => before.restarted(),
            }
    }

    /// "Until its first good reading a switch holds", unless it is told not to; "last" does what the last good reading
    /// said, and holds where there is none.
    fn starts_running(&self, before: Before) -> bool {
        match self.at_start {
            "paused" => false,
            "running" => true,
            _ => before == Before::RestartedRunning,
        }
    }

    /// Whether the stream is held while the trouble lasts.
    fn held(&self, before: Before, kind: Kind) -> bool {
        let held = match before {
            Before::Running => false,
            Before::Paused => true,
            _ => !self.starts_running(before),
        };
        // "Nothing ever resumes because something went away."
        if held {
            return true;
        }
        // "Keep the last good reading", unless an option that is meant for this says otherwise.
        kind == Kind::Absent && self.on_missing == "pause"
            || kind == Kind::Malformed && self.on_malformed == "pause"
            || self.stale == Some("pause")
    }
}

/// `on_missing`, `on_malformed` and, where `max_stale` passes, `on_stale`.
type Choice = (&'static str, &'static str, Option<&'static str>);

fn whole() -> Vec<Choice> {
    let both = ["keep", "pause"];
    let mut all = Vec::new();
    for on_missing in both {
        for on_malformed in both {
            all.extend([None, Some("keep"), Some("pause")].map(|stale| (on_missing, on_malformed, stale)));
        }
    }
    all
}

fn some() -> Vec<Choice> {
    vec![
        ("keep", "keep", None),
        ("pause", "keep", None),
        ("keep", "pause", None),
        ("keep", "keep", Some("keep")),
        ("keep", "keep", Some("pause")),
        ("pause", "pause", Some("keep")),
    ]
}

/// A secret store with one flag in it.
trait Store: Copy + fmt::Debug + Send + Sync {
    /// What status calls the reading while the trouble lasts, and which option has a say.
    fn shows(&self) -> (&'static str, Kind);
    /// It stands for all that come to the same reading.
    fn is_model(&self) -> bool;
    /// It can only come after something has been read.
    fn needs_a_reading(&self) -> bool {
        false
    }
    /// The switch's provider, as the configuration names it.
    fn provider(&self, site: &Site) -> String;
    /// How long one read may take.
    fn patience(&self) -> &'static str;
    /// It cannot be had in the process of the tests.
    fn needs_a_process(&self) -> bool {
        false
    }
    /// What is in the store's answers and must be in none of ours.
    fn shows_nothing_of(&self) -> &'static [&'static str] {
        &[]
    }
    /// The site that it needs.
    async fn site(&self) -> Site {
        Site::new().await
    }
    /// Before anything else.
    fn prepare(&self, site: &Site);
    /// Writes a flag; `text` goes with it, as the members of an object.
    fn put(&self, site: &Site, paused: bool, text: &Value);
    fn flag(&self, site: &Site, paused: bool) {
        self.put(site, paused, &json!({}));
    }
    async fn spoil(&self, site: &Site);
    /// What [`Store::spoil`] did is over. Says whether the flag of before is there again, in its own version.
    async fn mend(&self, site: &Site) -> bool;
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

/// Some options of one trouble after one beginning: a switch and a stream for each, in one process. An error is a
/// decision that should have been another.
async fn cell(store: impl Store, before: Before, all: Vec<Options>) -> Result<(), String> {
    let at = |name: &str| format!("{store:?} after {before:?}: {name}");
    let mut site = store.site().await;
    site.add_top("state_dir = \"{dir}/state\"");
    store.prepare(&site);
    let provider = store.provider(&site);
    let names: Vec<String> = (0..all.len()).map(|n| format!("s{n}")).collect();
    for (name, options) in names.iter().zip(&all) {
        let options = options.toml(store.patience());
        site.add(&format!(
            "[[switch]]\nname = \"{name}\"\nstreams = [\"{name}\"]\ninterval = \"100ms\"\nretry_max = \"200ms\"\n{options}\n{provider}"
        ));
        site.file_stream(name);
    }
    store.flag(&site, before.paused());
    let state = if before.paused() { "paused" } else { "running" };
    let first_rows = || {
        for name in &names {
            append(&site.source(name), &rows(0..1));
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

    // Held by a reading, not by the start.
    let has_read = async |sidecar: &Sidecar| {
        let client = sidecar.client();
        eventually(&at("a first good reading"), async || {
            let status = client.status().await;
            let switches = status["switches"].as_array().unwrap();
            switches.iter().all(|s| s["reading"] == state).then_some(())
        })
        .await;
        states_are(client, &at(state), &vec![state; all.len()]).await;
    };
    if before.restarted() {
        let sidecar = store.start(&site).await;
        has_read(&sidecar).await;
        sidecar.stop().await;
    }
    if before.unread() {
        store.spoil(&site).await;
    }
    first_rows();
    let sidecar = store.start(&site).await;
    let client = sidecar.client();
    if !before.unread() {
        has_read(&sidecar).await;
        let moved = if before.paused() { 0 } else { 1 };
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
    states_are(client, &at(reading), &states).await;
    let when_held = sinks();
    for (n, options) in all.iter().enumerate().filter(|(n, _)| held[*n]) {
        let moved = when_held[n].lines().count();
        let expected = match before {
            Before::Running => 1..=1,
            Before::Paused => 0..=0,
            // It ran until it was read for the first time.
            _ if options.starts_running(before) => 0..=1,
            _ => 0..=0,
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
        assert_eq!(switch["settled"], options.settled(before), "{here}");
    }
    let said = format!("{status} {}", client.metrics().await);
    for mark in store.shows_nothing_of() {
        assert!(!said.contains(mark), "{}", at(&said));
    }
    let ready = if all.iter().all(|options| options.settled(before)) {
        200
    } else {
        503
    };
    assert_eq!(client.observe("/readyz").await.0, ready, "{}", at("ready"));
    assert_eq!(client.observe("/livez").await.0, 200, "{}", at("alive"));

    store.mend(&site).await;
    store.flag(&site, false);
    // What has run all the while is awaited by the reading, not by the state.
    let status = eventually(&at("mended"), async || {
        let status = client.status().await;
        let (streams, switches) = (status["streams"].as_array()?, status["switches"].as_array()?);
        let heard = switches.iter().all(|switch| switch["error"].is_null());
        let runs = streams.iter().all(|stream| stream["state"] == "running");
        (heard && runs).then(|| status.clone())
    })
    .await;
    sinks_are(vec![rows(0..2); all.len()]).await;
    for n in 0..all.len() {
        assert_eq!(status["streams"][n]["holds"], json!([]), "{}", at("mended"));
    }
    assert_eq!(client.observe("/readyz").await.0, 200, "{}", at("mended"));
    sidecar.stop().await;
    Ok(())
}

/// Waits until each stream is in its state, and returns that status.
async fn states_are(client: &Client, what: &str, states: &[&str]) -> Value {
    eventually(what, async || {
        let status = client.status().await;
        let streams = status["streams"].as_array().unwrap();
        let mut pairs = streams.iter().zip(states);
        pairs
            .all(|(stream, state)| stream["state"] == *state)
            .then_some(status)
    })
    .await
}

async fn all_cells(stores: &[impl Store]) {
    let mut cells = Vec::new();
    for store in stores {
        for before in Before::ALL {
            if before == Before::Starting && store.needs_a_reading() {
                continue;
            }
            let restarts = store.is_model() || store.needs_a_reading();
            if before.restarted() && !restarts {
                continue;
            }
            for group in Options::groups(before, store.is_model()) {
                cells.push(cell(*store, before, group));
            }
        }
    }
    // Nearly all of a cell is waiting for the next poll.
    let outcomes: Vec<Result<(), String>> = stream::iter(cells).buffer_unordered(16).collect().await;
    let wrong: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert_eq!(wrong, [""; 0]);
}
