//! One read at a time.
use crate::bench::{Bench, set_paused};
use std::time::Duration;
use tidegate_providers::{Provider, Secret, Seen, read_flag, read_once};

const MARK: &str = "MARKED-value";
/// A store that hangs is given up after this; no other read takes as long.
const LIMIT: Duration = Duration::from_millis(700);

async fn secret(provider: &mut Box<dyn Provider>) -> Secret {
    provider.read().await.unwrap()
}

async fn once(provider: &mut Box<dyn Provider>) -> Seen {
    read_once(provider.as_mut(), &["IsPaused"], LIMIT).await.remove(0)
}

pub(crate) async fn a_flag_is_read_as_it_was_written<B: Bench>() {
    let bench = B::open().await;
    let mut provider = bench.provider();
    for (text, paused) in [("true", true), ("false", false), ("TRUE", true)] {
        let until = "2030-01-01T00:00:00Z";
        bench
            .set(&[
                ("ispaused", text),
                ("reason", "db move"),
                ("by", "ana"),
                ("until", until),
            ])
            .await;
        let flag = read_flag(&secret(&mut provider).await, "IsPaused").unwrap();
        assert_eq!(flag.paused, paused);
        assert_eq!(
            (flag.reason.as_deref(), flag.by.as_deref()),
            (Some("db move"), Some("ana"))
        );
        assert!(flag.until.is_some() && flag.warnings.is_empty(), "{flag:?}");
    }
    bench.set(&[("other", "true")]).await;
    assert_eq!(once(&mut provider).await.reading.word(), "missing");
}

pub(crate) async fn the_version_changes_with_the_secret_and_only_then<B: Bench>() {
    let bench = B::open().await;
    let mut provider = bench.provider();
    let mut before = None;
    for n in 0..6 {
        set_paused(&bench, n % 2 == 0).await;
        let version = secret(&mut provider).await.version;
        assert_ne!(before.as_ref(), Some(&version.id));
        for _ in 0..3 {
            assert_eq!(
                secret(&mut provider).await.version,
                version,
                "unchanged is not changed"
            );
        }
        assert!(!format!("{version:?}").contains("true"));
        before = Some(version.id);
    }
}

pub(crate) async fn each_ailment_is_told_by_its_name_and_nothing_of_the_value<B: Bench>() {
    let bench = B::open().await;
    for (word, way) in bench.ailments() {
        let mut provider = bench.provider();
        bench.set(&[("IsPaused", "true"), ("password", MARK)]).await;
        assert_eq!(once(&mut provider).await.reading.word(), "paused");
        bench.ail(way).await;
        let seen = once(&mut provider).await;
        assert_eq!(seen.reading.word(), word, "{way}: {seen:?}");
        let error = seen.error.clone().expect("a sentence for a person");
        assert!(error.len() > 20, "{error}");
        assert!(!format!("{seen:?}").contains("MARKED"), "{seen:?}");
        bench.heal().await;
        set_paused(&bench, false).await;
        let seen = once(&mut provider).await;
        assert_eq!(
            seen.reading.word(),
            "running",
            "after {way}, with the same provider: {seen:?}"
        );
    }
    let mut other = bench.other();
    assert_eq!(
        once(&mut other).await.reading.word(),
        "missing",
        "nobody ever wrote it"
    );
}

pub(crate) async fn a_read_that_is_dropped_leaves_the_provider_whole<B: Bench>() {
    let bench = B::open().await;
    set_paused(&bench, true).await;
    let mut provider = bench.provider();
    for turns in 0..30 {
        {
            let mut read = provider.read();
            for _ in 0..turns {
                // One turn and away.
                tokio::select! {
                    biased;
                    _ = &mut read => break,
                    () = tokio::task::yield_now() => {}
                }
            }
        }
        assert_eq!(once(&mut provider).await.reading.word(), "paused");
    }
}

pub(crate) async fn equal_secrets_have_equal_ids_and_others_do_not<B: Bench>() {
    let bench = B::open().await;
    assert_eq!(bench.provider().id(), bench.provider().id());
    assert_ne!(bench.provider().id(), bench.other().id());
    assert!(!bench.provider().id().contains("MARKED"));
    let kinds = ["vault", "azure_key_vault", "file", "fixed"];
    assert!(kinds.contains(&bench.provider().kind()));
}
