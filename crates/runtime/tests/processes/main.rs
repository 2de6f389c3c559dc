//! Real processes and real pipes, driven through the example `copy`.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);

fn copy() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/copy");
    assert!(
        path.exists(),
        "{} is missing: `cargo test -p tidegate-runtime` builds it; with --test, first cargo build -p tidegate-runtime --example copy",
        path.display()
    );
    path
}

/// A running `copy`, and what it says of its state.
struct Running {
    child: Child,
    says: Receiver<String>,
}

impl Running {
    fn start(args: &[&str], stdin: Stdio, stdout: Stdio) -> Running {
        let mut child = Command::new(copy())
            .args(args)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (say, says) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if say.send(line).is_err() {
                    break;
                }
            }
        });
        Running { child, says }
    }

    fn piped() -> (Running, ChildStdin, ChildStdout) {
        let mut running = Running::start(&["-", "-"], Stdio::piped(), Stdio::piped());
        let (stdin, stdout) = (
            running.child.stdin.take().unwrap(),
            running.child.stdout.take().unwrap(),
        );
        (running, stdin, stdout)
    }

    fn until(&self, word: &str) {
        loop {
            let line = self
                .says
                .recv_timeout(LONG)
                .unwrap_or_else(|e| panic!("waited for {word:?}: {e}"));
            if line == word {
                return;
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn pause(&self) {
        self.signal("-USR1");
        self.until("paused");
    }

    fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < LONG, "it does not end");
            std::thread::yield_now();
        };
        (status, self.says.iter().collect())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(range: std::ops::Range<usize>) -> String {
    range.map(|n| format!("line {n}\n")).collect()
}

fn read_lines(from: &mut impl BufRead, n: usize) -> String {
    let mut text = String::new();
    for _ in 0..n {
        from.read_line(&mut text).unwrap();
    }
    text
}

#[test]
fn what_goes_into_a_pipe_comes_out_and_the_end_of_input_is_the_end() {
    let (running, mut stdin, mut stdout) = Running::piped();
    let text = lines(0..50_000) + "no newline";
    let writer = std::thread::spawn({
        let text = text.clone();
        move || stdin.write_all(text.as_bytes()).unwrap()
    });
    let mut out = String::new();
    stdout.read_to_string(&mut out).unwrap();
    writer.join().unwrap();
    assert!(out == text + "\n", "{} bytes", out.len());
    let (status, says) = running.ended();
    assert!(status.success());
    assert_eq!(says.last().unwrap(), "Ended, 0 given back, 0 lost");
}

#[test]
fn nothing_is_read_from_a_pipe_while_paused() {
    let (running, mut stdin, stdout) = Running::piped();
    let mut stdout = BufReader::new(stdout);
    stdin.write_all(lines(0..1).as_bytes()).unwrap();
    assert_eq!(read_lines(&mut stdout, 1), lines(0..1));
    running.pause();
    stdin.write_all(lines(1..3).as_bytes()).unwrap();
    running.signal("-TERM");
    let (status, says) = running.ended();
    assert!(status.success(), "{says:?}");
    assert_eq!(
        says.last().unwrap(),
        "Stopped, 0 given back, 0 lost",
        "both lines are still in the pipe"
    );
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "not one line passed the closed gate");
}

#[test]
fn a_reader_that_stops_reading_cannot_keep_the_stream_pausing_and_gets_the_rest_byte_by_byte() {
    let (running, mut stdin, mut stdout) = Running::piped();
    let text = lines(0..40_000);
    let writer = std::thread::spawn({
        let text = text.clone();
        move || {
            stdin.write_all(text.as_bytes()).unwrap();
            stdin
        }
    });
    // The pipe is full, and a write waits in the middle of a line: the attempt ends after ten seconds.
    running.until("running");
    running.pause();
    running.signal("-USR2");
    running.until("running");
    let mut out = vec![0; text.len()];
    stdout.read_exact(&mut out).unwrap();
    assert!(out == text.as_bytes(), "torn or repeated");
    drop(writer.join().unwrap());
    assert!(running.ended().0.success());
}

#[test]
fn what_was_read_and_cannot_be_written_is_counted_and_exits_75() {
    let (running, mut stdin, stdout) = Running::piped();
    running.until("running");
    // More than both pipes hold, less than pipes and stream together: once it is gone, the rest is in the stream.
    stdin.write_all(lines(0..15_000).as_bytes()).unwrap();
    running.pause();
    running.signal("-TERM");
    let (status, says) = running.ended();
    assert_eq!(status.code(), Some(75), "{says:?}");
    let last = says.last().unwrap();
    assert!(
        last.starts_with("Stopped, 0 given back, ") && !last.contains(" 0 lost"),
        "{last}"
    );
    drop(stdout);
}

#[test]
fn a_reader_that_leaves_is_a_clear_end() {
    let (running, mut stdin, stdout) = Running::piped();
    drop(stdout);
    stdin.write_all(b"a\n").unwrap();
    let (status, says) = running.ended();
    assert_eq!(status.code(), Some(75), "{says:?}");
    let last = says.last().unwrap();
    assert!(
        last.contains("stdout: the reader has closed the pipe") && last.contains("1 lost"),
        "{last}"
    );
}

#[test]
fn a_file_may_take_the_place_of_both_pipes() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, lines(0..10_000)).unwrap();
    let running = Running::start(
        &["-", "-"],
        fs::File::open(&from).unwrap().into(),
        fs::File::create(&to).unwrap().into(),
    );
    assert!(running.ended().0.success());
    assert_eq!(fs::read_to_string(&to).unwrap(), lines(0..10_000));
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn kill_9_loses_nothing_and_repeats_at_most_the_batch_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to, state) = (
        dir.path().join("from"),
        dir.path().join("to"),
        dir.path().join("state"),
    );
    let args = [
        format!("+{}", from.display()),
        to.display().to_string(),
        state.display().to_string(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut written = 0;
    let mut kills = 0;
    let mut repeats = 0;
    while kills < 20 {
        let running = Running::start(&args, Stdio::null(), Stdio::null());
        running.until("running");
        let before = fs::metadata(&to).map_or(0, |m| m.len());
        // Kill it while it copies: once it has begun, after a different amount of work each time.
        append(&from, &lines(written..written + 30_000));
        written += 30_000;
        let reach = before + 1 + kills * 15_000;
        let began = Instant::now();
        while fs::metadata(&to).map_or(0, |m| m.len()) < reach {
            assert!(began.elapsed() < LONG, "it does not copy");
        }
        running.signal("-KILL");
        running.ended();
        kills += 1;
    }
    let running = Running::start(&args, Stdio::null(), Stdio::null());
    let last = format!("line {}\n", written - 1);
    let began = Instant::now();
    while !fs::read_to_string(&to).unwrap().ends_with(&last) {
        assert!(began.elapsed() < LONG, "it does not come to the end");
    }
    running.signal("-TERM");
    assert!(running.ended().0.success());
    let copied = fs::read_to_string(&to).unwrap();
    let mut expected = 0;
    for line in copied.lines() {
        let n: usize = line
            .strip_prefix("line ")
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("torn: {line:?}"));
        assert!(n <= expected, "line {expected} is lost");
        if n < expected {
            // A batch again: it goes on from there, and is no longer than a batch.
            assert!(expected - n <= 1024, "{} repeated", expected - n);
            repeats += 1;
        }
        expected = n + 1;
    }
    assert_eq!(expected, written);
    assert!(repeats <= 20, "{repeats} repeats for 20 kills");
}
