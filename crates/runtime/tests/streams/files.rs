//! Files: followed through rotations and truncations, and found again after a restart.
use crate::rig::*;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use tidegate_gate::{Life, State};
use tidegate_runtime::{
    DeadLetters, FileSink, FileSource, Outcome, Pipeline, StreamConfig, Supervisor, build,
};
use tidegate_runtime::{Report, StateDir};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Place {
    dir: tempfile::TempDir,
    state: bool,
    board: Board,
    member: tidegate_gate::Member,
    stop: CancellationToken,
    task: Option<JoinHandle<Report>>,
    sink: Scripted,
    follow: bool,
}

impl Place {
    fn new(follow: bool, state: bool) -> Place {
        let board = Board::new();
        let member = board.member();
        let sink = Scripted::willing(member.gate());
        Place {
            dir: tempfile::tempdir().unwrap(),
            state,
            board,
            member,
            stop: CancellationToken::new(),
            task: None,
            sink,
            follow,
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("app.log")
    }

    fn append(&self, text: &str) {
        append(&self.log(), text);
    }

    /// As a new process would: another source, another sink.
    fn start(&mut self) {
        let ledger = self.state.then(|| self.dir.path().join("place.ledger"));
        let source = FileSource::new(self.log(), self.follow, 1000, ledger);
        self.sink = Scripted::willing(self.member.gate());
        let with = Pipeline {
            dead_letters: DeadLetters::at(self.dir.path().join("dead.jsonl")),
            ..pipeline(source, (), self.sink.clone())
        };
        let (stop, task) = run(&self.member, with);
        (self.stop, self.task) = (stop, Some(task));
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        self.ended().await;
    }

    async fn ended(&mut self) -> Report {
        report(self.task.take().unwrap()).await
    }

    async fn reads(&self, lines: &[&str]) {
        self.sink.has(lines.len()).await;
        assert_eq!(self.sink.payloads(), lines);
    }

    fn rename(&self, to: &str) {
        fs::rename(self.log(), self.dir.path().join(to)).unwrap();
    }
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[tokio::test]
async fn a_file_that_is_not_followed_ends_its_stream_and_its_last_line_counts() {
    let mut place = Place::new(false, false);
    place.append("a\nb\n\nlast without newline");
    place.start();
    assert_eq!(place.ended().await.outcome, Outcome::Ended);
    assert_eq!(place.sink.payloads(), ["a", "b", "", "last without newline"]);
}

#[tokio::test]
async fn an_unfinished_line_waits_until_it_is_complete() {
    let mut place = Place::new(true, false);
    place.append("a\nunfin");
    place.start();
    place.reads(&["a"]).await;
    place.append("ished");
    place.append(" line\nb\n");
    place.reads(&["a", "unfinished line", "b"]).await;
    place.stop().await;
}

#[tokio::test]
async fn a_renamed_file_is_read_to_its_end_before_the_one_that_took_its_name() {
    let mut place = Place::new(true, false);
    place.append("a\n");
    place.start();
    place.reads(&["a"]).await;
    // As logrotate does it: the writer goes on in the renamed file until it is told.
    place.rename("app.log.1");
    File::create(place.log()).unwrap();
    append(&place.dir.path().join("app.log.1"), "late\nhalf");
    place.sink.has(2).await;
    place.append("new\n");
    place.reads(&["a", "late", "half", "new"]).await;
    place.stop().await;
}

#[tokio::test]
async fn rotations_during_a_long_pause_are_all_read_after_it() {
    let mut place = Place::new(true, false);
    place.append("0\n");
    place.start();
    place.reads(&["0"]).await;
    place.board.paused().await;
    let mut expected = vec!["0".to_owned()];
    for n in 1..=5 {
        place.append(&format!("{n} before its rotation\n"));
        expected.push(format!("{n} before its rotation"));
        place.rename(&format!("app.log.{n}"));
        place.append(&format!("{n} after\n"));
        expected.push(format!("{n} after"));
        // The source opens what took the name without reading it.
        let (log, pid) = (place.log(), std::process::id());
        soon("the new file is open", async {
            loop {
                let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
                if open
                    .flatten()
                    .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == log))
                {
                    break;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    assert_eq!(place.sink.payloads().len(), 1);
    place.board.resume();
    place
        .reads(&expected.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    place.stop().await;
}

#[tokio::test]
async fn a_truncated_file_is_read_from_its_beginning_even_if_it_has_grown_past_the_place() {
    for second in [
        "x\n",
        "another beginning, and longer than the first content was\ny\n",
    ] {
        let mut place = Place::new(true, false);
        place.append("first\nsecond\n");
        place.start();
        place.reads(&["first", "second"]).await;
        place.board.paused().await;
        fs::write(place.log(), second).unwrap();
        place.board.resume();
        let mut expected = vec!["first", "second"];
        expected.extend(second.lines());
        place.reads(&expected).await;
        let tokens: Vec<_> = place.sink.taken.events().iter().map(|e| e.token).collect();
        assert!(tokens.is_sorted(), "positions grow: {tokens:?}");
        place.stop().await;
    }
}

#[tokio::test]
async fn what_copytruncate_moved_away_unread_is_read_from_the_copy() {
    let mut place = Place::new(true, true);
    place.append("read\n");
    place.start();
    place.reads(&["read"]).await;
    place.board.paused().await;
    place.append("unread\n");
    fs::copy(place.log(), place.dir.path().join("app.log.1")).unwrap();
    OpenOptions::new()
        .write(true)
        .open(place.log())
        .unwrap()
        .set_len(0)
        .unwrap();
    place.append("x\n");
    place.board.resume();
    place.reads(&["read", "unread", "x"]).await;
    place.stop().await;
    place.start();
    place.append("y\n");
    place.reads(&["y"]).await;
    place.stop().await;
}

#[tokio::test]
async fn a_restart_goes_on_where_the_last_process_stopped() {
    let mut place = Place::new(true, true);
    place.append("a\nb\n");
    place.start();
    place.reads(&["a", "b"]).await;
    place.stop().await;
    place.append("c\n");
    place.start();
    place.reads(&["c"]).await;
    place.stop().await;
    // Rotated while nobody ran, twice, and with something unread in each.
    place.append("d\n");
    place.rename("app.log.2");
    place.append("e\n");
    place.rename("app.log.1");
    place.append("f\n");
    place.start();
    place.reads(&["d", "e", "f"]).await;
    place.stop().await;
    place.start();
    place.append("g\n");
    place.reads(&["g"]).await;
    place.stop().await;
}

#[tokio::test]
async fn without_state_a_restart_begins_at_the_beginning() {
    let mut place = Place::new(true, false);
    place.append("a\n");
    for _ in 0..2 {
        place.start();
        place.reads(&["a"]).await;
        place.stop().await;
    }
}

#[tokio::test]
async fn a_file_that_was_replaced_while_nobody_ran_is_read_from_its_beginning() {
    let mut place = Place::new(true, true);
    place.append("a\nb\n");
    place.start();
    place.reads(&["a", "b"]).await;
    place.stop().await;
    // Same length, same name, and on many file systems the same inode.
    fs::remove_file(place.log()).unwrap();
    place.append("c\nd\ne\n");
    place.start();
    place.reads(&["c", "d", "e"]).await;
    place.stop().await;
}

#[tokio::test]
async fn a_file_that_is_not_there_yet_is_waited_for() {
    let mut place = Place::new(true, true);
    place.start();
    let status = place
        .board
        .until("a retry", |s| matches!(s.life, Life::Retrying { .. }))
        .await;
    assert!(
        status.life.error().unwrap().contains("app.log"),
        "{:?}",
        status.life
    );
    place.append("a\n");
    place.reads(&["a"]).await;
    place.board.until("works again", |s| s.life == Life::Up).await;
    place.stop().await;
}

#[tokio::test]
async fn a_line_that_is_too_long_goes_to_the_dead_letter() {
    let mut place = Place::new(true, true);
    place.append(&format!("a\n{}\nb\n", "x".repeat(5000)));
    place.start();
    place.reads(&["a", "b"]).await;
    place.board.until("counted", |s| s.dead_letters == 1).await;
    let letters = fs::read_to_string(place.dir.path().join("dead.jsonl")).unwrap();
    assert!(
        letters.contains("the line has 5000 bytes, max_line is 1000"),
        "{letters}"
    );
    place.stop().await;
    place.append("c\n");
    place.start();
    place.reads(&["c"]).await;
    place.stop().await;
}

#[tokio::test]
async fn a_damaged_place_is_said_and_not_guessed_at() {
    let mut place = Place::new(true, true);
    place.append("a\n");
    fs::write(place.dir.path().join("place.ledger"), "garbage").unwrap();
    place.start();
    let status = place
        .board
        .until("a retry", |s| matches!(s.life, Life::Retrying { .. }))
        .await;
    assert!(
        status.life.error().unwrap().contains("place.ledger is damaged"),
        "{:?}",
        status.life
    );
    // The button works all the same.
    place.board.paused().await;
    place.board.resume();
    fs::remove_file(place.dir.path().join("place.ledger")).unwrap();
    place.reads(&["a"]).await;
    place.stop().await;
}

// ---- the sink

struct Copy {
    dir: tempfile::TempDir,
    board: Board,
}

impl Copy {
    fn new() -> Copy {
        Copy {
            dir: tempfile::tempdir().unwrap(),
            board: Board::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn sink(&self, remembers: bool) -> FileSink {
        FileSink::new(
            self.path("out"),
            false,
            remembers.then(|| self.path("sink.ledger")),
        )
    }

    /// Copies the file `in` to its end.
    async fn copy(&self, member: &tidegate_gate::Member, remembers: bool) {
        let ledger = Some(self.path("in.ledger"));
        let source = FileSource::new(self.path("in"), false, 1000, ledger);
        let (_stop, task) = run(member, pipeline(source, (), self.sink(remembers)));
        assert_eq!(report(task).await.outcome, Outcome::Ended);
    }

    fn out(&self) -> String {
        fs::read_to_string(self.path("out")).unwrap()
    }
}

#[tokio::test]
async fn half_a_line_of_a_killed_process_is_cut_off() {
    let copy = Copy::new();
    let member = copy.board.member();
    append(&copy.path("out"), "before us\n");
    append(&copy.path("in"), "a\nb\n");
    copy.copy(&member, true).await;
    append(&copy.path("out"), "torn li");
    append(&copy.path("in"), "torn line\n");
    copy.copy(&member, true).await;
    assert_eq!(copy.out(), "before us\na\nb\ntorn line\n");
}

#[tokio::test]
async fn half_a_line_that_may_be_somebody_elses_is_ended_and_kept() {
    for remembers in [true, false] {
        let copy = Copy::new();
        let member = copy.board.member();
        append(&copy.path("out"), "not ours");
        append(&copy.path("in"), "a\n");
        copy.copy(&member, remembers).await;
        assert_eq!(copy.out(), "not ours\na\n");
    }
}

#[tokio::test]
async fn a_sink_file_that_was_moved_away_is_made_anew() {
    let copy = Copy::new();
    let member = copy.board.member();
    append(&copy.path("in"), "a\n");
    let source = FileSource::new(copy.path("in"), true, 1000, None);
    let (stop, task) = run(&member, pipeline(source, (), copy.sink(true)));
    copy.board.until("one", |s| s.events == 1).await;
    fs::rename(copy.path("out"), copy.path("out.1")).unwrap();
    append(&copy.path("in"), "b\n");
    copy.board.until("two", |s| s.events == 2).await;
    assert_eq!(copy.out(), "b\n");
    stop.cancel();
    report(task).await;
}

#[tokio::test]
async fn a_sink_that_cannot_be_opened_is_retried_and_loses_nothing() {
    let copy = Copy::new();
    let member = copy.board.member();
    append(&copy.path("in"), "a\n");
    let source = FileSource::new(copy.path("in"), true, 1000, None);
    let sink = FileSink::new(copy.path("later/out"), true, None);
    let (stop, task) = run(&member, pipeline(source, (), sink));
    copy.board
        .until("a retry", |s| matches!(s.life, Life::Retrying { .. }))
        .await;
    copy.board.paused().await;
    fs::create_dir(copy.path("later")).unwrap();
    copy.board.resume();
    copy.board.until("written", |s| s.events == 1).await;
    assert_eq!(fs::read_to_string(copy.path("later/out")).unwrap(), "a\n");
    stop.cancel();
    report(task).await;
}

/// A device that is always full takes the place of a full disk.
#[tokio::test]
async fn a_full_disk_is_an_error_in_the_status_and_the_button_works() {
    let copy = Copy::new();
    let member = copy.board.member();
    append(&copy.path("in"), "a\n");
    let source = FileSource::new(copy.path("in"), true, 1000, None);
    let (stop, task) = run(
        &member,
        pipeline(source, (), FileSink::new("/dev/full", false, None)),
    );
    let status = copy
        .board
        .until("a retry", |s| matches!(s.life, Life::Retrying { .. }))
        .await;
    assert!(
        status.life.error().unwrap().contains("No space left"),
        "{:?}",
        status.life
    );
    assert_eq!(copy.board.paused().await.held.events, 1);
    stop.cancel();
    assert_eq!(report(task).await.outcome, Outcome::Stopped);
}

#[tokio::test]
async fn a_place_that_cannot_be_saved_holds_its_events_and_the_button_works() {
    let copy = Copy::new();
    let member = copy.board.member();
    append(&copy.path("in"), "a\n");
    let source = FileSource::new(copy.path("in"), true, 1000, Some("/dev/full".into()));
    let (stop, task) = run(&member, pipeline(source, (), copy.sink(false)));
    let status = copy
        .board
        .until("a retry", |s| matches!(s.life, Life::Retrying { .. }))
        .await;
    let error = status.life.error().unwrap();
    assert!(
        error.contains("/dev/full") && error.contains("No space left"),
        "{error}"
    );
    let status = copy.board.paused().await;
    assert_eq!((status.events, status.held.events), (0, 1), "not acknowledged");
    assert_eq!(
        copy.out(),
        "a\n",
        "written once, however often the place is tried again"
    );
    stop.cancel();
    let report = report(task).await;
    assert_eq!((report.outcome, report.given_back), (Outcome::Stopped, 1));
}

#[tokio::test]
async fn a_dead_letter_on_a_full_disk_holds_its_event_and_the_button_works() {
    let board = Board::new();
    let member = board.member();
    let (feeder, source) = tidegate_runtime::memory(10);
    feeder.send("refused").await;
    let sink = Scripted::new(member.gate(), |_, _| Act::Reject(0));
    let with = Pipeline {
        dead_letters: DeadLetters::at("/dev/full"),
        ..pipeline(source, (), sink.clone())
    };
    let (_stop, _task) = run(&member, with);
    let status = board
        .until("a retry", |s| matches!(s.life, Life::Retrying { .. }))
        .await;
    assert!(
        status.life.error().unwrap().contains("No space left"),
        "{:?}",
        status.life
    );
    assert_eq!(board.paused().await.held.events, 1);
    assert_eq!((sink.attempts(), *feeder.acked().borrow()), (1, 0));
}

// ---- from a configuration

#[tokio::test]
async fn a_configured_stream_copies_a_file_through_pauses_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in"), dir.path().join("out"));
    let config: StreamConfig = serde_json::from_value(serde_json::json!({
        "name": "copy",
        "source": {"type": "file", "path": from, "follow": true},
        "sink": {"type": "file", "path": to},
    }))
    .unwrap();
    let mut written = String::new();
    for round in 0..5 {
        let board = Board::new();
        let state = StateDir::open(dir.path().join("state")).unwrap();
        let stream = build(&config, &board.holds, Some(&state)).unwrap();
        let supervisor = Supervisor::spawn(board.holds.clone(), vec![stream]);
        for part in 0..10 {
            let text: String = (0..100).map(|n| format!("{round} {part} {n}\n")).collect();
            append(&from, &text);
            written += &text;
            if part % 3 == 0 {
                board.paused().await;
                let size = fs::metadata(&to).map_or(0, |m| m.len());
                append(&from, "while paused\n");
                written += "while paused\n";
                assert_eq!(board.status().state, State::Paused);
                assert_eq!(fs::metadata(&to).map_or(0, |m| m.len()), size);
                board.resume();
            }
        }
        board
            .until("everything is copied", |_| {
                fs::metadata(&to).is_ok_and(|m| m.len() == written.len() as u64)
            })
            .await;
        let reports = soon("stopped", supervisor.stop(LONG)).await;
        assert_eq!(reports[0].outcome, Outcome::Stopped);
    }
    assert_eq!(fs::read_to_string(&to).unwrap(), written);
}

#[test]
fn unknown_keys_and_types_are_errors() {
    for (json, says) in [
        (
            r#"{"name":"a","source":{"type":"file","path":"x","folow":true},"sink":{"type":"stdout"}}"#,
            "folow",
        ),
        (
            r#"{"name":"a","source":{"type":"fil","path":"x"},"sink":{"type":"stdout"}}"#,
            "fil",
        ),
        (
            r#"{"name":"a","source":{"type":"stdin"},"sink":{"type":"stdout","path":"x"}}"#,
            "path",
        ),
        (
            r#"{"name":"a","source":{"type":"stdin"},"sink":{"type":"stdout"},"stages":[]}"#,
            "stages",
        ),
    ] {
        let error = serde_json::from_str::<StreamConfig>(json)
            .unwrap_err()
            .to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn two_streams_of_one_name_are_refused() {
    let board = Board::new();
    let config: StreamConfig =
        serde_json::from_str(r#"{"name":"a","source":{"type":"stdin"},"sink":{"type":"stdout"}}"#).unwrap();
    build(&config, &board.holds, None).unwrap();
    let error = build(&config, &board.holds, None).unwrap_err().to_string();
    assert!(error.contains("\"a\""), "{error}");
}
