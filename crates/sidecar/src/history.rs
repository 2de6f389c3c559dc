//! What moved when, by whom, why and how fast, over restarts: every record of the journal, as a file in `state_dir`.
//!
//! Nothing waits for it. The journal keeps the newest 4,096 records in memory, and a disk that refuses them gets them
//! again each second; what the journal has dropped by then is lost, counted, and told in an entry of kind `lost`.
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tidegate_admin::{Admin, Event, Past, ReadPast};
use tidegate_gate::{Holds, Record};
use tidegate_state::{Entry, History, StateDir};
use tokio_util::sync::CancellationToken;

/// About 30,000 records, in two files of half this size.
const MOST: u64 = 8 << 20;
/// The alarm under which a failing disk shows in status and metrics.
const ALARM: &str = "history";
/// How far back the last drills are looked for: in a few megabytes for a moment, not in all of it.
const RECALLED: usize = 10_000;
const AGAIN: Duration = Duration::from_secs(1);

/// The history that the process with this `state_dir` writes. Reading it takes no lock and may be done while it runs,
/// by the process itself or by another; see [`History::read`]. Entries are audit lines; two kinds are only here:
/// `started` (a process began, and `seq` counts from 1 again) and `lost` (records are missing in this place; `reason`
/// says how many).
pub fn history(state_dir: &Path) -> History<Event> {
    History::at(state_dir.join("history").join("records.jsonl"), MOST)
}

/// How the control API reads it: beside the writer, on a thread where waiting for a disk holds up nothing.
pub(crate) fn reader(state_dir: &Path) -> ReadPast {
    let history = Arc::new(history(state_dir));
    Arc::new(move |since, most| {
        let history = history.clone();
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || history.read(since, most)).await;
            let past = read
                .map_err(|_| "the reader stopped unexpectedly".to_owned())?
                .map_err(|error| error.to_string())?;
            Ok(Past {
                entries: past.entries.into_iter().map(|entry| entry.what).collect(),
                unreadable: past.unreadable,
            })
        })
    })
}

/// Has the surfaces know the drills of earlier processes. Not before the process runs: a long history takes longer to
/// read than a process to start.
pub(crate) async fn recall_drills(admin: Admin, read: ReadPast) {
    match read(None, RECALLED).await {
        Ok(past) => admin.remember_drills(&past.entries),
        Err(why) => tracing::warn!("the age of earlier drills is not known: {why}"),
    }
}

/// Writes down every record of the journal until `stop`, and what is left then.
pub(crate) async fn keep(holds: Arc<Holds>, dir: StateDir, stop: CancellationToken) {
    let history = Arc::new(history(dir.path()));
    let mut end = holds.journal_end();
    let mut waiting = vec![bare(
        &holds,
        "started",
        concat!("tidegate ", env!("CARGO_PKG_VERSION")),
    )];
    let (mut seq, mut lost) = (0, 0);
    loop {
        let stopping = stop.is_cancelled();
        end.mark_unchanged();
        let records = holds.journal_after(seq);
        let gap = records.first().map_or(0, |first| first.seq - seq - 1);
        lost += gap;
        let mut entries = waiting.clone();
        if lost > 0 {
            let count = format!("{lost} records are missing here: the disk did not take them in time");
            entries.push(bare(&holds, "lost", &count));
        }
        entries.extend(records.iter().map(|record| entry(record)));
        let failed = match entries.is_empty() {
            true => None,
            false => append(history.clone(), entries).await.err(),
        };
        match &failed {
            None => {
                seq = records.last().map_or(seq, |last| last.seq);
                (waiting, lost) = (Vec::new(), 0);
            }
            // Counted once: those that the journal has dropped will not come again.
            Some(_) => seq += gap,
        }
        holds.set_alarm(
            ALARM,
            failed.as_ref().map(|why| {
                let newest = *end.borrow();
                let behind = newest - seq;
                format!(
                    "the history lacks the last {behind} records and has lost {lost} others: {why}; nothing else is \
                     affected, and it is tried again"
                )
                .into()
            }),
        );
        if stopping {
            return;
        }
        let again = async {
            match failed {
                Some(_) => tokio::time::sleep(AGAIN).await,
                // The sender lives in `holds`, which this task keeps.
                None => drop(end.changed().await),
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = again => {}
        }
    }
}

/// A disk may take long; it must not hold up a thread that moves events.
async fn append(history: Arc<History<Event>>, entries: Vec<Entry<Event>>) -> Result<(), String> {
    match tokio::task::spawn_blocking(move || history.append(&entries)).await {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(_) => Err("the writer stopped unexpectedly".into()),
    }
}

fn entry(record: &Record) -> Entry<Event> {
    Entry {
        at: record.at,
        what: Event::of(record),
    }
}

/// Something that is not in the journal.
fn bare(holds: &Holds, kind: &str, reason: &str) -> Entry<Event> {
    let at: SystemTime = holds.now().wall;
    Entry {
        at,
        what: Event::bare(at, kind, reason),
    }
}
