//! A process that is killed at a random moment of writing.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::SystemTime;
use tidegate_state::{Entry, History};

/// Where the killed process writes; this test is both processes.
const PLACE: &str = "TIDEGATE_STATE_KILLED";
const NAME: &str = "what_was_appended_survives_a_kill_and_nothing_is_taken_for_an_entry_that_is_none";

fn entry(n: u64) -> Entry<u64> {
    Entry {
        at: SystemTime::now(),
        what: n,
    }
}

#[test]
fn what_was_appended_survives_a_kill_and_nothing_is_taken_for_an_entry_that_is_none() {
    if let Some(path) = std::env::var_os(PLACE) {
        let history = History::<u64>::at(path, 1_000);
        let last = history.read(None, 1).unwrap().entries.pop();
        for n in last.map_or(0, |entry| entry.what + 1).. {
            history.append(&[entry(n)]).unwrap();
            writeln!(std::io::stdout(), "\nappended {n}").unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.jsonl");
    let history = History::<u64>::at(&path, 1_000);
    let mut expected = 0;
    for round in 0..10 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(PLACE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = || loop {
            let line = lines.next()?.unwrap();
            if let Some(n) = line.strip_prefix("appended ") {
                return Some(n.parse::<u64>().unwrap());
            }
        };
        // A different piece of the way each time.
        let mut last = told().unwrap();
        for _ in 0..round * 3 {
            last = told().unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some(n) = told() {
            last = n;
        }
        let past = history.read(None, usize::MAX).unwrap();
        let kept: Vec<u64> = past.entries.iter().map(|entry| entry.what).collect();
        let newest = *kept.last().unwrap();
        assert!(
            newest == last || newest == last + 1,
            "it had told of {last}: {kept:?}"
        );
        assert!(kept.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{kept:?}");
        assert_eq!(past.unreadable, 0, "{kept:?}");
        assert!(newest >= expected);
        expected = newest;
    }
}
