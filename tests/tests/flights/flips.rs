//! The secret is flipped while rows are being appended.
use crate::course::{Course, Store};
use e2e::appender::Appender;
use e2e::rows::Rows;
use e2e::verdict::{Pause, Violation, judge};

/// Pieces in which the rows are appended per flip, one every 5 ms: about the time that a flip takes.
const PIECES: usize = 80;

/// The twin: the same rows, the same process, but its stream is not bound to the switch.
fn twin(dir: &std::path::Path) -> String {
    format!(
        r#"
        [[stream]]
        name = "twin"
        source = {{ type = "file", path = "{dir}/source.csv", follow = true }}
        sink = {{ type = "file", path = "{dir}/twin.csv" }}
        "#,
        dir = dir.display()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_arrives_once_in_order_and_none_while_paused() {
    flipped_in(Store::Vault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_while_a_key_vault_says_so() {
    flipped_in(Store::KeyVault).await;
}

async fn flipped_in(store: Store) {
    let flips = if Rows::real() { 20 } else { 5 };
    let rows = Rows::flights_or(20_000).unwrap();
    let course = Course::new(store, rows, twin).await;
    let text = course.rows.text();
    course.flag.write(false).await.unwrap();
    let appender = Appender::start(&course.path("source.csv"), course.rows.clone(), flips * PIECES).unwrap();
    let sidecar = course.start();
    sidecar.becomes("flights", "running").await.unwrap();

    // However slow this machine is, something is left to append until the last flip is over.
    let part = text.len() / (2 * flips + 2);
    let (mut steps, mut pauses, mut twins) = (1, Vec::new(), Vec::new());
    appender.allow(part);
    for _ in 0..flips {
        let moving = course.len("sink.csv");
        course.outgrows("sink.csv", moving).await;

        course.flag.write(true).await.unwrap();
        let told = sidecar.becomes("flights", "paused").await.unwrap();
        let at_paused = course.len("sink.csv");
        let twin_at_paused = course.len("twin.csv");
        assert_eq!(told["in_flight"], 0);
        assert_eq!(told["holds"][0]["controller"], "switch:ops");

        steps += 1;
        appender.allow(steps * part);
        course.outgrows("twin.csv", twin_at_paused).await;
        course.polls(2).await;
        assert_eq!(sidecar.stream("flights").await.unwrap()["state"], "paused");

        let before_resume = course.len("sink.csv");
        pauses.push(Pause {
            at_paused,
            before_resume,
        });
        twins.push(Pause {
            at_paused: twin_at_paused,
            before_resume: course.len("twin.csv"),
        });
        assert!(
            course.len("source.csv") < text.len() as u64,
            "rows are still being appended"
        );
        course.flag.write(false).await.unwrap();
        course.outgrows("sink.csv", before_resume).await;
        steps += 1;
        appender.allow(steps * part);
    }
    appender.finish().await.unwrap();
    for sink in ["sink.csv", "twin.csv"] {
        course.outgrows(sink, text.len() as u64 - 1).await;
    }
    let events = course.rows.len();
    let told = async { while sidecar.stream("flights").await.unwrap()["events"] != events {} };
    tokio::time::timeout(e2e::PATIENCE, told).await.unwrap();
    let ended = sidecar.stop().await.unwrap();
    assert!(ended.success(), "{ended}");

    let sink = course.read("sink.csv");
    judge(&course.rows, &sink, &pauses, &[]).unwrap();
    assert_eq!(pauses.len(), flips);
    assert_eq!(course.read("source.csv"), text);
    assert_eq!(sink, text);

    let unbound = judge(&course.rows, &course.read("twin.csv"), &twins, &[]);
    assert!(matches!(unbound, Err(Violation::Moved { .. })), "{unbound:?}");
    let past: u64 = twins.iter().map(|t| t.before_resume - t.at_paused).sum();
    println!(
        "{events} rows, {flips} flips: in {store:?}, none moved while paused; the twin that no switch holds moved {past} bytes then"
    );
}
