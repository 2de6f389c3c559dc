//! `until` and `on_expiry`, with every reading: an end that passes while nobody can read the flag ends nothing. The wall
//! clock is the test's, and jumps.
use super::file::File;
use super::key_vault::KeyVault;
use super::vault::Vault;
use super::{Sidecar, Store, states_are};
use crate::harness::{Running, append, controllers, eventually, rows, text_of};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};
use tidegate_gate::{Clock, Moment};

/// The flag's end is this far from now.
const HOUR: i64 = 3600;

#[derive(Clone, Default)]
struct Wall(Arc<AtomicI64>);

impl Wall {
    fn clock(&self) -> Clock {
        let offset = self.0.clone();
        Clock::new(move || {
            let offset = offset.load(Ordering::SeqCst);
            let by = Duration::from_secs(offset.unsigned_abs());
            let now = SystemTime::now();
            Moment {
                wall: if offset < 0 { now - by } else { now + by },
                mono: tokio::time::Instant::now().into_std(),
            }
        })
    }

    fn jump_to(&self, hours: i64) {
        self.0.store(hours * HOUR, Ordering::SeqCst);
    }
}

#[derive(Clone, Copy, Debug)]
struct Options {
    on_expiry: &'static str,
    /// `on_stale`, where `max_stale` passes.
    stale: Option<&'static str>,
}

fn options() -> Vec<Options> {
    let mut all = Vec::new();
    for on_expiry in ["release", "keep"] {
        all.extend([None, Some("keep"), Some("pause")].map(|stale| Options { on_expiry, stale }));
    }
    all
}

/// A pause with an end; the trouble; the end passes, and once more in the other direction; the trouble is over.
async fn cell(store: impl Store) -> Result<(), String> {
    let at = |what: &str| format!("{store:?}: {what}");
    let mut site = store.site().await;
    store.prepare(&site);
    let provider = store.provider(&site);
    let all = options();
    for (n, Options { on_expiry, stale }) in all.iter().enumerate() {
        let stale = match stale {
            Some(on_stale) => format!("timeout = \"50ms\"\nmax_stale = \"150ms\"\non_stale = \"{on_stale}\""),
            None => format!("timeout = \"{}\"\nmax_stale = \"1h\"", store.patience()),
        };
        site.add(&format!(
            "[[switch]]\nname = \"s{n}\"\nstreams = [\"s{n}\"]\ninterval = \"100ms\"\nretry_max = \"200ms\"\n\
             on_expiry = \"{on_expiry}\"\n{stale}\n{provider}"
        ));
        site.file_stream(&format!("s{n}"));
        append(&site.source(&format!("s{n}")), &rows(0..1));
    }
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(HOUR);
    store.put(
        &site,
        true,
        &json!({ "until": until.to_string(), "reason": "db" }),
    );
    let wall = Wall::default();
    let sidecar = Sidecar::Here(Running::on(&site, wall.clock()).await);
    let client = sidecar.client();
    let paused = vec!["paused"; all.len()];
    let all_read = async |word: &str, what: &str| {
        eventually(&at(what), async || {
            let status = client.status().await;
            let switches = status["switches"].as_array().unwrap();
            let reached = switches.iter().zip(&all).all(|(switch, options)| {
                let stale = word != "paused" && options.stale.is_some();
                switch["reading"] == word && switch["stale"] == stale
            });
            reached.then_some(status)
        })
        .await
    };
    let status = all_read("paused", "the first reading").await;
    for stream in status["streams"].as_array().unwrap() {
        assert!(
            stream["holds"][0]["until"].is_string(),
            "{}",
            at(&stream.to_string())
        );
    }
    states_are(client, &at("paused"), &paused).await;

    store.spoil(&site).await;
    let (word, _) = store.shows();
    all_read(word, word).await;
    // Past the end, far before it, and past it again: the clock of a machine that finds its time server.
    for hours in [2, -48, 3] {
        wall.jump_to(hours);
        for _ in 0..2 {
            client.poll().await;
        }
        let status = all_read(word, "the trouble lasts").await;
        for (n, stream) in status["streams"].as_array().unwrap().iter().enumerate() {
            let here = at(&format!("{:?} at {hours} h: {stream}", all[n]));
            if controllers(stream) != [format!("switch:s{n}")] {
                return Err(here);
            }
            assert_eq!(
                (&stream["state"], &stream["in_flight"]),
                (&json!("paused"), &json!(0)),
                "{here}"
            );
            let error = status["switches"][n]["error"].as_str().unwrap_or_default();
            assert!(
                error.contains("stands on") || error.contains("max_stale"),
                "{here} {error}"
            );
        }
    }
    for n in 0..all.len() {
        assert_eq!(
            text_of(&site.sink(&format!("s{n}"))),
            "",
            "{}",
            at("nothing moves")
        );
    }

    if store.mend(&site).await {
        // The reading that ends it: good, at or past the time, of the very version.
        let states: Vec<&str> = all
            .iter()
            .map(|options| match options.on_expiry {
                "release" => "running",
                _ => "paused",
            })
            .collect();
        states_are(client, &at("mended"), &states).await;
        // A hold that is kept looks the same before and after that reading; each switch has its own.
        eventually(
            &at("who keeps says that the end has passed, and nobody else"),
            async || {
                let status = client.status().await;
                let told = all.iter().enumerate().all(|(n, options)| {
                    let warnings = status["switches"][n]["warnings"].to_string();
                    warnings.contains("has passed") == (options.on_expiry == "keep")
                });
                told.then_some(())
            },
        )
        .await;
    }
    store.flag(&site, false);
    let status = states_are(client, &at("released"), &vec!["running"; all.len()]).await;
    for switch in status["switches"].as_array().unwrap() {
        assert_eq!(switch["error"], Value::Null, "{}", at("released"));
    }
    sidecar.stop().await;
    Ok(())
}

async fn all_cells(stores: &[impl Store]) {
    let cells = stores
        .iter()
        // One of each reading, and none that needs a process of its own: its clock is not the test's.
        .filter(|store| store.is_model() && !store.needs_a_process())
        .map(|store| cell(*store));
    let outcomes: Vec<Result<(), String>> = stream::iter(cells).buffer_unordered(8).collect().await;
    let wrong: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert_eq!(wrong, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_passes_during_any_trouble_with_vault_ends_nothing_until_a_good_reading() {
    Box::pin(all_cells(&Vault::all(2))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_with_a_store_that_has_no_versions() {
    Box::pin(all_cells(&Vault::all(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_with_key_vault() {
    Box::pin(all_cells(KeyVault::ALL)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_with_a_file() {
    Box::pin(all_cells(File::ALL)).await;
}
