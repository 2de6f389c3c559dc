//! The state as a JSON file, for apps that tidegate neither hosts nor stands before: they read it from a folder that
//! both see, and need no client and no port.
//!
//! A file cannot say that its writer has died. So each one ends by itself: it carries `valid_until`, is written anew
//! each second, and whoever finds it absent, unparsable or expired is to stand still.
use jiff::{SignedDuration, Timestamp, Unit};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tidegate_gate::{Holds, Kind, Life, Name, NameTaken, Snapshot};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// The alarm under which a file that cannot be written shows in status and metrics.
const ALARM: &str = "state_file";
/// Between two writes where nothing changes.
const REFRESH: Duration = Duration::from_secs(1);
/// How long one of them counts: four refreshes may come late on a busy machine, and an app goes on for this long at most
/// after its sidecar was killed.
const VALID: SignedDuration = SignedDuration::from_secs(5);

/// What readers find. Like the observe listener it tells no reasons, actors, addresses or errors.
#[derive(Serialize)]
struct Document<'a> {
    at: String,
    valid_until: String,
    /// At least one of them is held.
    paused: bool,
    streams: &'a BTreeMap<Name, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Entry {
    kind: &'static str,
    state: &'static str,
    /// At least one hold stands: begin nothing. Whether all has ended is what `state` says.
    paused: bool,
    in_flight: u64,
}

/// The file, and its successor beside it.
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    successor: PathBuf,
}

impl StateFile {
    /// The file at `path`, whose folder has to be there.
    pub(crate) fn at(path: &Path) -> StateFile {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        StateFile {
            path: path.to_owned(),
            successor: path.with_file_name(name),
        }
    }

    /// Puts names on the board that are only published. They are held like a gate that serves on: tidegate cannot prove
    /// that an app it does not stand before has come to rest, so they are `hiatus` while held and never `paused`.
    pub(crate) fn publish(holds: &Arc<Holds>, names: &[Name]) -> Result<(), NameTaken> {
        for name in names {
            let member = holds.register(name.clone(), Kind::Gate { serves: true })?;
            member.set_life(Life::Up);
        }
        Ok(())
    }

    /// Writes it now.
    pub(crate) fn write(&self, snapshot: &Snapshot) -> io::Result<()> {
        self.replace(&entries(snapshot), snapshot.at)
    }

    fn replace(&self, streams: &BTreeMap<Name, Entry>, now: SystemTime) -> io::Result<()> {
        let now = Timestamp::try_from(now).map_err(io::Error::other)?;
        let document = Document {
            at: time(now),
            valid_until: time(now.saturating_add(VALID).map_err(io::Error::other)?),
            paused: streams.values().any(|entry| entry.paused),
            streams,
        };
        let mut json = serde_json::to_vec(&document)?;
        json.push(b'\n');
        // Others may be able to write into the folder: what stands there is removed, and never followed.
        match fs::remove_file(&self.successor) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&self.successor)?;
        // The other containers of a pod run as other users, whatever this one's umask says.
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(&json)?;
        // No fsync: after a power cut a file that is empty or old means paused, as it should.
        fs::rename(&self.successor, &self.path)
    }

    /// Keeps it up to date until `stop`, and takes it away then: whoever reads on stands still.
    pub(crate) async fn keep(self, holds: Arc<Holds>, stop: CancellationToken) {
        let mut changed = holds.watch();
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut written = None;
        loop {
            let due = tokio::select! {
                () = stop.cancelled() => break,
                _ = refresh.tick() => true,
                // The sender lives in `holds`, which this task keeps.
                _ = changed.changed() => false,
            };
            changed.mark_unchanged();
            let snapshot = holds.snapshot();
            let streams = entries(&snapshot);
            if !due && written.as_ref() == Some(&streams) {
                continue;
            }
            let file = self.clone();
            // A disk may hang; it must not hold up a thread that moves events.
            let outcome =
                tokio::task::spawn_blocking(move || file.replace(&streams, snapshot.at).map(|()| streams))
                    .await;
            let failed = match outcome {
                Ok(Ok(streams)) => {
                    written = Some(streams);
                    None
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the writer stopped unexpectedly".into()),
            };
            let path = self.path.display();
            holds.set_alarm(
                ALARM,
                failed.map(|why| {
                    format!("{path} cannot be written, so that its readers stand still: {why}; it is tried again each second").into()
                }),
            );
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("{} stays, and ends by itself: {error}", self.path.display());
        }
    }
}

fn entries(snapshot: &Snapshot) -> BTreeMap<Name, Entry> {
    let entry = |s: &tidegate_gate::StreamStatus| Entry {
        kind: s.kind.word(),
        state: s.state.word(),
        paused: !s.holds.is_empty(),
        in_flight: s.in_flight,
    };
    snapshot
        .streams
        .iter()
        .map(|s| (s.name.clone(), entry(s)))
        .collect()
}

fn time(at: Timestamp) -> String {
    at.round(Unit::Millisecond).unwrap_or(at).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;
    use crate::app::clock;
    use serde_json::Value;
    use tidegate_gate::{Controller, Scope, Wish};

    fn board() -> Arc<Holds> {
        let holds = Holds::new(clock());
        StateFile::publish(&holds, &["reports".into(), "export".into()]).unwrap();
        holds
    }

    fn read(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn it_says_who_is_held_and_until_when_it_counts_and_nothing_about_people() {
        let dir = tempfile::tempdir().unwrap();
        let (holds, path) = (board(), dir.path().join("state.json"));
        let file = StateFile::at(&path);
        file.write(&holds.snapshot()).unwrap();
        let free = read(&path);
        assert_eq!(free["paused"], false);
        assert_eq!(free["streams"]["reports"]["state"], "running");
        let (at, until) = (
            free["at"].as_str().unwrap(),
            free["valid_until"].as_str().unwrap(),
        );
        let (at, until): (Timestamp, Timestamp) = (at.parse().unwrap(), until.parse().unwrap());
        assert_eq!(until.duration_since(at), VALID);

        let wish = Wish {
            reason: Some("hunter2".into()),
            by: Some("ana".into()),
            ..Wish::default()
        };
        holds
            .place(&Controller::Api, Scope::One("reports"), wish)
            .unwrap();
        file.write(&holds.snapshot()).unwrap();
        let held = read(&path);
        assert_eq!(held["paused"], true);
        assert_eq!(held["streams"]["reports"]["paused"], true);
        assert_eq!(
            held["streams"]["reports"]["state"], "hiatus",
            "a rest that nobody can prove"
        );
        assert_eq!(held["streams"]["export"]["paused"], false);
        let text = held.to_string();
        assert!(!text.contains("hunter2") && !text.contains("ana"), "{text}");
    }

    #[test]
    fn every_user_may_read_it_and_a_planted_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, prey) = (dir.path().join("state.json"), dir.path().join("prey"));
        fs::write(&prey, "whole").unwrap();
        std::os::unix::fs::symlink(&prey, dir.path().join("state.json.new")).unwrap();
        StateFile::at(&path).write(&board().snapshot()).unwrap();
        assert_eq!(fs::read_to_string(&prey).unwrap(), "whole");
        let meta = fs::symlink_metadata(&path).unwrap();
        assert!(meta.is_file());
        assert_eq!(meta.permissions().mode() & 0o777, 0o644);
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_cannot_be_written_is_an_alarm_that_ends_with_its_cause() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("shared");
        let (holds, stop) = (board(), CancellationToken::new());
        let file = StateFile::at(&folder.join("state.json"));
        let keeping = tokio::spawn(file.keep(holds.clone(), stop.clone()));
        let mut changed = holds.watch();
        let told = changed.wait_for(|s| !s.alarms.is_empty()).await.unwrap().alarms[0].clone();
        assert!(
            told.contains("shared/state.json") && told.contains("stand still"),
            "{told}"
        );

        fs::create_dir(&folder).unwrap();
        changed.wait_for(|s| s.alarms.is_empty()).await.unwrap();
        assert_eq!(read(&folder.join("state.json"))["paused"], false);
        stop.cancel();
        keeping.await.unwrap();
        assert_eq!(
            fs::read_dir(&folder).unwrap().count(),
            0,
            "nothing to be read after the end"
        );
    }
}
