#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use super::*;
use crate::Seen;
use std::os::unix::fs::{PermissionsExt as _, symlink};

async fn word(file: &mut File) -> &'static str {
    word_of(file, "IsPaused").await
}
async fn word_of(file: &mut File, key: &str) -> &'static str {
    Seen::of(&file.read().await, key, None).reading.word()
}
fn put(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[tokio::test]
async fn a_file_holds_a_boolean_or_an_object() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flag");
    let mut file = File::new(&path);
    for (text, expected) in [
        ("true\n", "paused"),
        ("FALSE", "running"),
        (r#"{"IsPaused": true, "reason": "x"}"#, "paused"),
        (r#"{"Other": true}"#, "missing"),
        ("nonsense", "malformed"),
    ] {
        put(&path, text);
        assert_eq!(word(&mut file).await, expected, "{text}");
    }
}

#[tokio::test]
async fn what_is_no_readable_file_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flag");
    let mut file = File::new(&path);
    assert_eq!(word(&mut file).await, "missing");
    assert_eq!(word(&mut File::new(path.join("below"))).await, "missing");
    put(&path, "");
    assert_eq!(word(&mut file).await, "malformed", "empty, and it stays so");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert_eq!(word(&mut file).await, "malformed");
    put(&path, &format!("true{}", " ".repeat(2 << 20)));
    assert_eq!(word(&mut file).await, "malformed");
    assert_eq!(
        word(&mut File::new("/dev/zero")).await,
        "unavailable",
        "not a regular file"
    );
    let error = File::new(dir.path().join("none")).read().await.unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
}

#[tokio::test]
async fn a_file_without_leave_to_read_is_denied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flag");
    put(&path, "true");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything, and then there is nothing to be seen here.
    let expected = match std::fs::File::open(&path) {
        Ok(_) => "paused",
        Err(_) => "denied",
    };
    assert_eq!(word(&mut File::new(&path)).await, expected);
}

/// As the kubelet does it: a new directory, a new link, renamed over the old one.
fn swap_volume(root: &Path, generation: u32, fields: &[(&str, &str)]) {
    let data = format!("..{generation}");
    std::fs::create_dir(root.join(&data)).unwrap();
    for (name, text) in fields {
        put(&root.join(&data).join(name), text);
        let visible = root.join(name);
        if visible.symlink_metadata().is_err() {
            symlink(Path::new(SWAPPED).join(name), visible).unwrap();
        }
    }
    let link = root.join("..data_tmp");
    symlink(&data, &link).unwrap();
    std::fs::rename(&link, root.join(SWAPPED)).unwrap();
    if generation > 0 {
        std::fs::remove_dir_all(root.join(format!("..{}", generation - 1))).unwrap();
    }
}

#[tokio::test]
async fn a_mounted_secret_is_read_as_fields_and_as_a_file() {
    let dir = tempfile::tempdir().unwrap();
    swap_volume(
        dir.path(),
        0,
        &[("IsPaused", "true\n"), ("reason", "db\n"), ("other", "x")],
    );
    let mut volume = File::new(dir.path());
    let secret = volume.read().await.unwrap();
    let flag = crate::read_flag(&secret, "ispaused").unwrap();
    assert!(flag.paused);
    assert_eq!(flag.reason.as_deref(), Some("db"));
    assert_eq!(word_of(&mut volume, "none").await, "missing");
    assert_eq!(word(&mut File::new(dir.path().join("IsPaused"))).await, "paused");

    let before = volume.read().await.unwrap().version;
    swap_volume(
        dir.path(),
        1,
        &[("IsPaused", "false\n"), ("reason", "db\n"), ("other", "x")],
    );
    let after = volume.read().await.unwrap().version;
    assert_ne!(before.id, after.id);
    assert_eq!(word(&mut volume).await, "running");
}

#[tokio::test]
async fn swapped_links_under_a_reader_never_show_anything_but_the_two_states() {
    let dir = tempfile::tempdir().unwrap();
    let state = |g: u32| {
        if g.is_multiple_of(2) {
            ("true", "even")
        } else {
            ("false", "odd")
        }
    };
    let fields = move |g| [("IsPaused", state(g).0), ("reason", state(g).1)];
    swap_volume(dir.path(), 0, &fields(0));
    let root = dir.path().to_owned();
    let writer = tokio::task::spawn_blocking(move || {
        for generation in 1..400 {
            swap_volume(&root, generation, &fields(generation));
            std::thread::yield_now();
        }
    });
    let mut volume = File::new(dir.path());
    let mut one = File::new(dir.path().join("IsPaused"));
    while !writer.is_finished() {
        // Under a swap each few microseconds a read may find no still moment, and says so; it never says "missing".
        match volume.read().await {
            Ok(secret) => {
                let flag = crate::read_flag(&secret, "IsPaused").unwrap();
                let expected = if flag.paused { "even" } else { "odd" };
                assert_eq!(flag.reason.as_deref(), Some(expected), "fields of two states");
            }
            Err(error) => assert_eq!(error.reading().word(), "unavailable", "{error}"),
        }
        let seen = word(&mut one).await;
        assert!(matches!(seen, "paused" | "running" | "unavailable"), "{seen}");
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn a_write_that_is_caught_half_done_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flag");
    for (half, whole) in [
        ("", "true"),
        ("fal", "false"),
        (r#"{"IsPaused": tr"#, r#"{"IsPaused": true}"#),
    ] {
        put(&path, "true");
        let mut file = File::new(&path);
        file.read().await.unwrap();
        // The writer stops in the middle, until the reader has looked.
        put(&path, half);
        let look = look(&path).unwrap();
        assert!(!look.whole, "{half}");
        let reading = file.read();
        let finish = async { put(&path, whole) };
        let (outcome, ()) = tokio::join!(biased; reading, finish);
        assert!(
            matches!(word_of_secret(&outcome), "paused" | "running"),
            "{half}: {outcome:?}"
        );
    }
}
fn word_of_secret(outcome: &Result<Secret, ReadError>) -> &'static str {
    Seen::of(outcome, "IsPaused", None).reading.word()
}

#[tokio::test]
async fn a_file_that_is_away_for_a_moment_is_not_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flag");
    put(&path, "true");
    let mut file = File::new(&path);
    file.read().await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let finish = async { put(&path, "false") };
    let (outcome, ()) = tokio::join!(biased; file.read(), finish);
    assert_eq!(word_of_secret(&outcome), "running");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(word(&mut file).await, "missing", "but one that stays away is");
}

#[tokio::test]
async fn the_version_changes_with_the_file_and_only_then() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flag");
    put(&path, "true");
    let mut file = File::new(&path);
    let first = file.read().await.unwrap().version;
    assert_eq!(first, file.read().await.unwrap().version);
    assert!(first.written.is_some());
    let next = dir.path().join("next");
    put(&next, "true");
    std::fs::rename(&next, &path).unwrap();
    assert_ne!(first.id, file.read().await.unwrap().version.id);
}
