#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use super::*;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

/// Room for all that the small tests write.
const AMPLE: u64 = 1 << 20;

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(second)
}

fn entries(seconds: std::ops::Range<u64>) -> Vec<Entry<u64>> {
    seconds.map(|n| Entry { at: at(n), what: n }).collect()
}

fn numbers(past: &Past<u64>) -> Vec<u64> {
    past.entries.iter().map(|entry| entry.what).collect()
}

fn all(history: &History<u64>) -> Vec<u64> {
    numbers(&history.read(None, usize::MAX).unwrap())
}

fn history(dir: &tempfile::TempDir, most: u64) -> History<u64> {
    History::at(dir.path().join("x.jsonl"), most)
}

fn size(history: &History<u64>) -> u64 {
    let of = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
    of(&history.path) + of(&history.old)
}

#[test]
fn the_next_process_reads_what_was_appended_in_order_and_goes_on_after_it() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(all(&history(&dir, AMPLE)), [0; 0], "no history yet is none");
    for n in 0..5 {
        history(&dir, AMPLE).append(&entries(n * 2..n * 2 + 2)).unwrap();
    }
    assert_eq!(all(&history(&dir, AMPLE)), (0..10).collect::<Vec<_>>());
    let text = fs::read_to_string(dir.path().join("x.jsonl")).unwrap();
    assert_eq!(text.lines().next().unwrap(), r#"{"v":1,"at":0,"what":0}"#);
    assert_eq!(
        fs::metadata(dir.path().join("x.jsonl")).unwrap().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_reader_names_the_time_since_when_and_how_many_of_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let history = history(&dir, AMPLE);
    history.append(&entries(0..10)).unwrap();
    for (since, most, expected) in [
        (None, usize::MAX, 0..10),
        (None, 3, 7..10),
        (None, 0, 0..0),
        (Some(7), usize::MAX, 7..10),
        (Some(7), 2, 8..10),
        (Some(10), usize::MAX, 0..0),
    ] {
        let past = history.read(since.map(at), most).unwrap();
        assert_eq!(numbers(&past), expected.collect::<Vec<_>>(), "{since:?} {most}");
    }
}

#[test]
fn both_files_stay_within_the_bound_and_what_is_kept_is_the_newest_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let most = 4_000;
    let history = history(&dir, most);
    for n in 0..300 {
        history.append(&entries(n..n + 1)).unwrap();
        assert!(size(&history) <= most, "{} bytes after {n}", size(&history));
    }
    // A batch that is larger than everything that may be kept.
    history.append(&entries(300..3_000)).unwrap();
    assert!(size(&history) <= most);
    let kept = all(&history);
    assert_eq!(kept, (3_000 - kept.len() as u64..3_000).collect::<Vec<_>>());
    assert!(
        size(&history) > most / 4,
        "a turn of the files leaves the older half"
    );
}

#[test]
fn an_entry_that_cannot_fit_is_refused_and_those_before_it_stay() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::<String>::at(dir.path().join("x.jsonl"), 1_000);
    let entry = |what: String| Entry { at: at(1), what };
    history.append(&[entry("short".into())]).unwrap();
    let error = history.append(&[entry("x".repeat(600))]).unwrap_err();
    assert!(matches!(error, StateError::Damaged { .. }), "{error}");
    assert_eq!(history.read(None, 9).unwrap().entries, [entry("short".into())]);
}

#[test]
fn a_torn_last_line_costs_that_entry_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let history = history(&dir, AMPLE);
    history.append(&entries(0..3)).unwrap();
    let whole = fs::read(history.path()).unwrap();
    let third = whole.len() / 3 * 2;
    for cut in third + 1..whole.len() {
        fs::write(history.path(), &whole[..cut]).unwrap();
        let past = history.read(None, 9).unwrap();
        assert_eq!(
            (numbers(&past), past.unreadable),
            (vec![0, 1], 0),
            "cut at {cut}: it may still be being written"
        );
        history.append(&entries(3..4)).unwrap();
        let past = history.read(None, 9).unwrap();
        let expected = match cut == whole.len() - 1 {
            // Only its newline was missing.
            true => (vec![0, 1, 2, 3], 0),
            false => (vec![0, 1, 3], 1),
        };
        assert_eq!((numbers(&past), past.unreadable), expected, "cut at {cut}");
    }
}

#[test]
fn an_entry_of_a_newer_layout_is_counted_and_not_guessed_at() {
    let dir = tempfile::tempdir().unwrap();
    let history = history(&dir, AMPLE);
    fs::write(
        history.path(),
        "{\"v\":2,\"at\":1,\"what\":7}\n{\"v\":1,\"at\":1,\"what\":8}\n",
    )
    .unwrap();
    let past = history.read(None, 9).unwrap();
    assert_eq!((numbers(&past), past.unreadable), (vec![8], 1));
}

#[test]
fn a_full_disk_and_a_read_only_one_are_errors_that_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let full = dir.path().join("full.jsonl");
    symlink("/dev/full", &full).unwrap();
    // Nobody creates files there, not even root.
    let read_only = PathBuf::from("/proc/self/history.jsonl");
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [full, read_only, file.join("x.jsonl")] {
        let error = History::<u64>::at(&path, AMPLE)
            .append(&entries(0..1))
            .unwrap_err();
        assert!(matches!(error, StateError::Io { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn somebody_may_remove_the_files_while_the_process_runs() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::at(dir.path().join("history/x.jsonl"), AMPLE);
    history.append(&entries(0..3)).unwrap();
    fs::remove_dir_all(history.path().parent().unwrap()).unwrap();
    history.append(&entries(3..5)).unwrap();
    assert_eq!(all(&history), [3, 4]);
}

#[test]
fn readers_meet_every_turn_of_the_files_and_never_a_gap_or_an_entry_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (done, most) = (AtomicBool::new(false), 400);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let history = history(&dir, most);
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) || looks == 0 {
                let past = history.read(None, usize::MAX).unwrap();
                let seen = numbers(&past);
                assert!(seen.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{seen:?}");
                assert_eq!(past.unreadable, 0);
                looks += 1;
            }
        });
        let writer = history(&dir, most);
        for n in 0..400 {
            writer.append(&entries(n..n + 1)).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
}

proptest::proptest! {
    #[test]
    fn no_content_makes_reading_panic_or_keeps_an_append_from_being_read(old: Vec<u8>, new: Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let history = history(&dir, 400);
        fs::write(&history.old, &old).unwrap();
        fs::write(&history.path, &new).unwrap();
        history.read(None, 9).unwrap();
        history.append(&entries(1..2)).unwrap();
        proptest::prop_assert_eq!(all(&history).pop(), Some(1));
    }
}
