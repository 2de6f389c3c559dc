//! Holds over restarts: what held before × how the process ended × whether the store is there when it starts again ×
//! whether there is a `state_dir`. Real processes; what comes out of each cell is written down in one table.
use crate::harness::{Client, Process, Site, append, controllers, eventually, rows, text_of};
use futures_util::{StreamExt, stream};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;

const TOKEN: &str = "the-token-for-the-day-of-the-fire";
const SECRET: &str = "streams/orders";
/// Long enough to be read while it is ahead, short enough to wait for.
const SOON: Duration = Duration::from_secs(8);
const LATER: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    ByApi,
    BySwitch,
    /// By the switch, and an override has set that aside.
    Overridden,
    ByApiUntilLater,
    /// The end passes while no process is there.
    ByApiUntilSoon,
    BySwitchUntilLater,
    BySwitchUntilSoon,
}

/// Nobody.
const NONE: &[&str] = &[];
const API: &[&str] = &["api"];
const OPS: &[&str] = &["switch:ops"];

/// Who holds after the restart: with a `state_dir` (and `at_start = "last"`) where the store is there and where it is
/// not, and without one (and the default, `at_start = "paused"`) likewise. How the process ended changes none of it.
#[rustfmt::skip] // a table
const TABLE: &[(Held, [&[&str]; 4])] = &[
    //                               remembered, store      forgotten, store
    //                               up     down            up     down
    (Held::ByApi,                   [API,   API,            NONE,  OPS]),
    (Held::BySwitch,                [OPS,   OPS,            OPS,   OPS]),
    // An override is never remembered: after a restart a person decides anew.
    (Held::Overridden,              [OPS,   OPS,            OPS,   OPS]),
    (Held::ByApiUntilLater,         [API,   API,            NONE,  OPS]),
    (Held::ByApiUntilSoon,          [NONE,  NONE,           NONE,  OPS]),
    (Held::BySwitchUntilLater,      [OPS,   OPS,            OPS,   OPS]),
    // Only a good reading at or past the end confirms it.
    (Held::BySwitchUntilSoon,       [NONE,  OPS,            NONE,  OPS]),
];

#[derive(Clone, Copy, Debug)]
struct Cell {
    held: Held,
    ends_by: Signal,
    store_up: bool,
    remembers: bool,
    expected: &'static [&'static str],
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (held, outcomes) in TABLE {
        for (n, expected) in outcomes.iter().enumerate() {
            cells.extend([Signal::KILL, Signal::TERM].map(|ends_by| Cell {
                held: *held,
                ends_by,
                store_up: n % 2 == 0,
                remembers: n < 2,
                expected,
            }));
        }
    }
    cells
}

impl Held {
    fn by_switch(self) -> bool {
        !matches!(self, Held::ByApi | Held::ByApiUntilLater | Held::ByApiUntilSoon)
    }

    fn until(self) -> Option<jiff::Timestamp> {
        let after = match self {
            Held::ByApiUntilSoon | Held::BySwitchUntilSoon => SOON,
            Held::ByApiUntilLater | Held::BySwitchUntilLater => LATER,
            Held::ByApi | Held::BySwitch | Held::Overridden => return None,
        };
        Some(jiff::Timestamp::now() + jiff::SignedDuration::try_from(after).unwrap())
    }
}

/// Brings about what is to be remembered; returns when its end is, and when the disk has it.
async fn hold(cell: Cell, site: &Site, client: &Client) -> Option<jiff::Timestamp> {
    let until = cell.held.until();
    let mut wish = json!({ "reason": "disk swap", "by": "ana" });
    if let Some(until) = until {
        wish["until"] = json!(until.to_string());
    }
    if cell.held.by_switch() {
        wish["IsPaused"] = json!(true);
        let version = site.put(SECRET, wish);
        client.reads("ops", "paused").await;
        if cell.remembers {
            let mark = format!("\"version\":\"{version}\"");
            on_disk(site, "switches/readings.json", &mark).await;
        }
    } else {
        if cell.remembers {
            on_disk(site, "switches/readings.json", "\"version\":\"1\"").await;
        }
        let (status, body) = client.call("POST", "/pause", Some(&wish)).await;
        assert_eq!(status, 200, "{cell:?}: {body}");
    }
    if cell.held == Held::ByApi && cell.ends_by == Signal::KILL {
        return until;
    }
    client.reaches("orders", "paused").await;
    if cell.held == Held::Overridden {
        let body = json!({ "controller": "switch:ops", "reason": "the store has burnt down" });
        let (status, body) = client.call("POST", "/streams/orders/override", Some(&body)).await;
        assert_eq!(status, 200, "{cell:?}: {body}");
        client.reaches("orders", "running").await;
    }
    until
}

/// A reading is in force before it is written down, so a process that is to be killed is given the time. A hold of the
/// API needs none: the call was answered when the disk had it.
async fn on_disk(site: &Site, file: &str, mark: &str) {
    eventually(&format!("{file} has {mark}"), async || {
        text_of(&site.path("state").join(file))
            .contains(mark)
            .then_some(())
    })
    .await;
}

async fn outcome(cell: Cell) -> Result<(), String> {
    let at = |what: &str| format!("{cell:?}: {what}");
    let mut site = Site::new().await;
    site.write("fire", TOKEN);
    site.add("[[control.token]]\nname = \"fire\"\nfile = \"{dir}/fire\"\nallow = [\"read\", \"pause\", \"resume\", \"override\"]\n");
    let mut options = "retry_max = \"200ms\"".to_owned();
    if cell.remembers {
        site.add_top("state_dir = \"{dir}/state\"");
        options += "\nat_start = \"last\"";
    }
    site.flag(SECRET, false);
    site.vault_switch("ops", &["orders"], SECRET, &options)
        .file_stream("orders");

    let (process, client) = Process::run(&site, &[]).await;
    let client = client.with_token(TOKEN);
    client.reads("ops", "running").await;
    client.reaches("orders", "running").await;
    let until = hold(cell, &site, &client).await;
    process.signal(cell.ends_by);
    let ended = process.end().await;
    let expected = (cell.ends_by == Signal::TERM).then_some(0);
    assert_eq!(ended.code, expected, "{}", at(&ended.stderr));
    if let Some(until) = until
        && matches!(cell.held, Held::ByApiUntilSoon | Held::BySwitchUntilSoon)
    {
        eventually(&at("the end has passed"), async || {
            (jiff::Timestamp::now() > until).then_some(())
        })
        .await;
    }

    append(&site.source("orders"), &rows(0..10));
    if !cell.store_up {
        site.store.vault_offline().await.unwrap();
    }
    let (process, client) = Process::run(&site, &[]).await;
    let client = client.with_token(TOKEN);
    let word = match (cell.store_up, cell.held.by_switch()) {
        (false, _) => "unavailable",
        (true, true) => "paused",
        (true, false) => "running",
    };
    client.reads("ops", word).await;
    let stream = client.stream("orders").await;
    if controllers(&stream) != cell.expected {
        return Err(at(&format!("expected {:?} to hold: {stream:#}", cell.expected)));
    }
    if cell.expected.is_empty() {
        eventually(&at("the rows move"), async || {
            (text_of(&site.sink("orders")) == rows(0..10)).then_some(())
        })
        .await;
    } else {
        client.reaches("orders", "paused").await;
        client.poll().await;
        assert_eq!(text_of(&site.sink("orders")), "", "{}", at("nothing moves"));
        let hold = &stream["holds"][0];
        let known = cell.store_up || cell.remembers;
        let (reason, by) = match known {
            true => (json!("disk swap"), json!("ana")),
            false => (json!("no reading yet"), Value::Null),
        };
        assert_eq!(
            (&hold["reason"], &hold["by"]),
            (&reason, &by),
            "{}",
            at("who and why")
        );
        assert_eq!(
            hold["until"].is_string(),
            known && until.is_some(),
            "{}",
            at(&hold.to_string())
        );
    }

    // From here on all is as ever: the switch lets go, and so does the API.
    if !cell.store_up {
        site.store.vault_online().await.unwrap();
    }
    let version = site.flag(SECRET, false);
    eventually(&at("the new version"), async || {
        (client.switch("ops").await["version"].as_str() == Some(&*version.to_string())).then_some(())
    })
    .await;
    let (status, body) = client.post("/resume").await;
    assert_eq!(status, 200, "{}", at(&body.to_string()));
    eventually(&at("the rows"), async || {
        (text_of(&site.sink("orders")) == rows(0..10)).then_some(())
    })
    .await;
    process.terminate();
    assert_eq!(process.end().await.code, Some(0), "{}", at("the end"));
    assert_eq!(
        site.path("state").exists(),
        cell.remembers,
        "{}",
        at("without state_dir nothing is written")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_restart_remembers_is_in_the_table_whether_it_was_killed_or_told_to_stop() {
    let mut all = cells();
    // Those that wait, together.
    all.sort_by_key(|cell| !matches!(cell.held, Held::ByApiUntilSoon | Held::BySwitchUntilSoon));
    let outcomes: Vec<Result<(), String>> = stream::iter(all.into_iter().map(outcome))
        .buffer_unordered(8)
        .collect()
        .await;
    let wrong: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert_eq!(wrong, [""; 0]);
    assert_eq!(cells().len(), 7 * 2 * 2 * 2);
}
