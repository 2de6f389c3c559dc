//! The fault matrix: every way of going wrong × what the stream is doing × each store, all cells at once, over real sockets
//! and real TLS. The table is `rows.rs`, what has to hold is `cell.rs`, and `subject.rs` has the twins that must fail.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says how much it has judged"
)]

mod cell;
mod rows;
mod stores;
mod subject;

use cell::{PHASES, Phase, Property, play};
use rows::Kind;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use stores::Stores;
use subject::Twin;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// More would only wait for the processor.
const AT_ONCE: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn every_cell_of_the_fault_matrix_has_the_documented_outcome() {
    tidegate_http::raise_descriptor_limit().unwrap();
    let stores = Stores::open().await;
    let all = std::env::var_os("TIDEGATE_TEST_ALL_FAULTS").is_some();
    // One row alone, for whoever mends it.
    let only = std::env::var("TIDEGATE_TEST_FAULT").ok();
    let rows = rows::all()
        .into_iter()
        .filter(|row| only.as_ref().is_none_or(|name| row.name == *name));
    let rows: Arc<Vec<_>> = Arc::new(rows.collect());
    let names: BTreeSet<_> = rows.iter().map(|row| &row.name).collect();
    assert_eq!(names.len(), rows.len(), "a row has a name of its own");
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let before = resident();
    let started = Instant::now();
    let mut cells = JoinSet::new();
    let mut number = 0;
    // The silent ones first: they take longest.
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&i| !rows[i].silent);
    for i in order {
        for (p, phase) in PHASES.into_iter().enumerate() {
            for (k, kind) in [Kind::Vault, Kind::KeyVault].into_iter().enumerate() {
                // One phase a row and store, another for the other store, unless all are asked for.
                if !all && (i + 2 * k) % PHASES.len() != p {
                    continue;
                }
                number += 1;
                let (stores, rows, places) = (stores.clone(), rows.clone(), places.clone());
                let number = number;
                cells.spawn(async move {
                    // Silence costs nothing.
                    let _place = match rows[i].silent {
                        true => None,
                        false => Some(places.acquire_owned().await.unwrap()),
                    };
                    let complaints = play(stores, number, &rows[i], phase, kind, None).await;
                    (format!("{} / {phase:?} / {kind:?}", rows[i].name), complaints)
                });
            }
        }
    }
    let mut wrong = Vec::new();
    while let Some(played) = cells.join_next().await {
        let (cell, complaints) = played.unwrap();
        for complaint in &complaints {
            println!("{cell}: {complaint}");
        }
        wrong.extend(complaints.iter().map(|complaint| format!("{cell}: {complaint}")));
    }
    let grown = resident().saturating_sub(before) >> 20;
    println!(
        "fault matrix: {} rows, {number} cells, {} wrong, {:.0} s, {grown} MiB more resident",
        rows.len(),
        wrong.len(),
        started.elapsed().as_secs_f64()
    );
    assert!(wrong.is_empty(), "{} complaints, above", wrong.len());
    // Eight endless bodies, at a MiB each and with what the sockets hold, are well below it.
    assert!(grown < 512, "{grown} MiB more than before");
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn each_broken_twin_is_found_by_the_property_it_breaks() {
    let stores = Stores::open().await;
    let rows = Arc::new(rows::all());
    let cases = [
        (
            Twin::ResumesOnAbsence,
            "never written",
            Phase::Paused,
            Property::State,
        ),
        (Twin::ResumesOnAbsence, "refused", Phase::Pausing, Property::State),
        (
            Twin::CallsAllTheSame,
            "status 403",
            Phase::Running,
            Property::Kind,
        ),
        (Twin::SaysError, "status 500", Phase::Running, Property::Line),
        (Twin::Chatters, "a login page", Phase::Running, Property::Line),
        (Twin::Insists, "status 503", Phase::Paused, Property::Rate),
        (Twin::Nudges, "status 502", Phase::Paused, Property::Rate),
        (
            Twin::Sulks,
            "reset before the headers",
            Phase::Running,
            Property::Recovery,
        ),
        (Twin::Gulps, "endless body", Phase::Running, Property::Memory),
    ];
    let mut played = JoinSet::new();
    for (i, (twin, row, phase, property)) in cases.into_iter().enumerate() {
        let (stores, rows) = (stores.clone(), rows.clone());
        played.spawn(async move {
            let row = rows.iter().find(|found| found.name == row).unwrap();
            let complaints = play(stores, 10_000 + i, row, phase, Kind::Vault, Some(twin)).await;
            assert!(
                complaints.iter().any(|complaint| complaint.of == property),
                "{twin:?} passes for right: {:?}",
                complaints.iter().map(ToString::to_string).collect::<Vec<_>>()
            );
        });
    }
    while let Some(ended) = played.join_next().await {
        ended.unwrap();
    }
}
