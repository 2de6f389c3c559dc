//! What a restart must not forget: the API's holds and the last good readings, kept in `state_dir`.
//!
//! Nothing here stands between a call and its effect. A pause is in force before it is written down, and a disk that
//! is full or read-only makes an alarm, never a delay of it. Only the answer to the call waits for the disk, and not for
//! long.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tidegate_gate::{Cause, Controller, Flag, Hold, Holds, Name, Scope, Version, Wish};
use tidegate_state::{StateDir, StateError, StateFile};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// The alarm under which a failing disk shows in status and metrics.
const ALARM: &str = "state_dir";

/// What is kept, and where.
#[derive(Clone)]
pub(crate) struct Memory(Arc<Inner>);

struct Inner {
    holds_file: StateFile<BTreeMap<String, SavedHold>>,
    readings_file: StateFile<BTreeMap<String, SavedReading>>,
    readings: Mutex<BTreeMap<String, SavedReading>>,
    changed: Notify,
    /// The number of the newest record of the journal that a try to write took in, whether or not it succeeded.
    tried: watch::Sender<Option<u64>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SavedHold {
    reason: Option<String>,
    by: Option<String>,
    actor: String,
    since: SystemTime,
    until: Option<SystemTime>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SavedReading {
    paused: bool,
    reason: Option<String>,
    by: Option<String>,
    until: Option<SystemTime>,
    version: String,
    written: Option<SystemTime>,
}

impl Memory {
    /// Reads what the last process left.
    ///
    /// # Errors
    /// If the files cannot be read or understood: starting without them would forget a hold that somebody placed.
    pub(crate) fn open(dir: &StateDir) -> Result<Memory, StateError> {
        let holds_file = dir.file("control", "holds")?;
        let readings_file: StateFile<BTreeMap<String, SavedReading>> = dir.file("switches", "readings")?;
        let readings = Mutex::new(readings_file.load()?.unwrap_or_default());
        Ok(Memory(Arc::new(Inner {
            holds_file,
            readings_file,
            readings,
            changed: Notify::new(),
            tried: watch::Sender::new(None),
        })))
    }

    /// Places the API's holds that stood when the last process ended; those whose time has come expire at the next
    /// settling. A hold on a stream that the configuration no longer has is dropped, with a line in the log.
    pub(crate) fn restore_holds(&self, holds: &Holds) -> Result<(), StateError> {
        for (stream, saved) in self.0.holds_file.load()?.unwrap_or_default() {
            let wish = Wish {
                reason: saved.reason.map(Into::into),
                by: saved.by.map(Into::into),
                until: saved.until,
                since: Some(saved.since),
                cause: Cause {
                    actor: Some(saved.actor.into()),
                    ..Cause::default()
                },
            };
            if let Err(gone) = holds.place(&Controller::Api, Scope::One(&stream), wish) {
                tracing::warn!(stream, "a hold of the control API is dropped: {gone}");
            }
        }
        Ok(())
    }

    /// The last good reading of a switch, for `at_start = "last"`.
    pub(crate) fn last_reading(&self, switch: &str) -> Option<(Flag, Version)> {
        let saved = self.readings().get(switch)?.clone();
        let flag = Flag {
            paused: saved.paused,
            reason: saved.reason.map(Into::into),
            by: saved.by.map(Into::into),
            until: saved.until,
            warnings: Vec::new(),
        };
        Some((
            flag,
            Version {
                id: saved.version.into(),
                written: saved.written,
            },
        ))
    }

    /// Takes note of a good reading; [`Memory::keep`] writes it down.
    pub(crate) fn note_reading(&self, switch: &Name, flag: &Flag, version: &Version) {
        let saved = SavedReading {
            paused: flag.paused,
            reason: flag.reason.as_deref().map(Into::into),
            by: flag.by.as_deref().map(Into::into),
            until: flag.until,
            version: version.id.as_ref().into(),
            written: version.written,
        };
        self.readings().insert(switch.as_ref().into(), saved);
        self.0.changed.notify_one();
    }

    fn readings(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, SavedReading>> {
        // Inserting into a map leaves it whole whatever happens.
        self.0.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when [`Memory::keep`] has written down the holds that stand now, or failed to.
    ///
    /// Dropping the future changes nothing. Where nobody keeps, it does not resolve: bound it in time.
    pub(crate) async fn kept(&self, holds: &Holds) {
        let now = *holds.journal_end().borrow();
        // The sender lives in `self`.
        let _ = self
            .0
            .tried
            .subscribe()
            .wait_for(|tried| *tried >= Some(now))
            .await;
    }

    /// Writes changes down until `stop`, and once more then.
    pub(crate) async fn keep(self, holds: Arc<Holds>, stop: CancellationToken) {
        let mut end = holds.journal_end();
        let mut written_holds = None;
        let mut written_readings = None;
        loop {
            let stopping = stop.is_cancelled();
            let upto = *end.borrow_and_update();
            let standing = api_holds(&holds);
            let readings = self.readings().clone();
            let memory = self.clone();
            let (old_holds, old_readings) = (written_holds.clone(), written_readings.clone());
            // fsync may take long; it must not hold up a thread that moves events.
            let outcome = tokio::task::spawn_blocking(move || {
                let mut result = Ok(());
                if old_holds.as_ref() != Some(&standing) {
                    result = memory.0.holds_file.save(&standing);
                }
                if result.is_ok() && old_readings.as_ref() != Some(&readings) {
                    result = memory.0.readings_file.save(&readings);
                }
                result.map(|()| (standing, readings))
            })
            .await;
            let failed = match outcome {
                Ok(Ok((holds, readings))) => {
                    (written_holds, written_readings) = (Some(holds), Some(readings));
                    None
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the writer stopped unexpectedly".into()),
            };
            holds.set_alarm(
                ALARM,
                failed.as_ref().map(|why| {
                    format!("a restart would forget the latest holds and readings: {why}; holds stand, and it is tried again").into()
                }),
            );
            self.0.tried.send_replace(Some(upto));
            if stopping {
                return;
            }
            let again = async {
                match failed {
                    Some(_) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                // The sender lives in `holds`, which this task keeps.
                _ = end.changed() => {}
                () = self.0.changed.notified() => {}
                () = again => {}
            }
        }
    }
}

fn api_holds(holds: &Holds) -> BTreeMap<String, SavedHold> {
    let snapshot = holds.snapshot();
    let saved = |hold: &Hold| SavedHold {
        reason: hold.reason.as_deref().map(Into::into),
        by: hold.by.as_deref().map(Into::into),
        actor: hold.actor.as_ref().into(),
        since: hold.since,
        until: hold.until,
    };
    snapshot
        .streams
        .iter()
        .filter_map(|s| {
            let (_, hold) = s.holds.iter().find(|(c, _)| *c == Controller::Api)?;
            Some((s.name.as_ref().into(), saved(hold)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tidegate_gate::Kind;

    #[tokio::test]
    async fn a_hold_counts_as_kept_when_the_disk_has_it_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::open(folder.path()).unwrap();
        let memory = Memory::open(&dir).unwrap();
        let holds = Holds::new(crate::app::clock());
        holds.register("orders", Kind::Stream).unwrap();
        holds
            .place(&Controller::Api, Scope::All, Wish::default())
            .unwrap();

        let mut kept = Box::pin(memory.kept(&holds));
        assert!(kept.as_mut().now_or_never().is_none(), "nobody has written yet");
        let stop = CancellationToken::new();
        let keeping = tokio::spawn(memory.clone().keep(holds.clone(), stop.clone()));
        kept.await;
        // As the next process would find it, if this one ended here.
        assert!(
            memory
                .0
                .holds_file
                .load()
                .unwrap()
                .unwrap()
                .contains_key("orders")
        );
        stop.cancel();
        keeping.await.unwrap();
    }
}
