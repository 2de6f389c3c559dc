//! kill -9 at random moments, each followed by a restart over the same `state_dir`.
use crate::course::{Course, Store};
use e2e::appender::Appender;
use e2e::rows::Rows;
use e2e::sidecar::Sidecar;
use e2e::verdict::{Kill, Pause, judge};
use std::path::Path;
use std::time::Duration;

/// Pieces in which the rows are appended per kill, one every 5 ms: large ones, so that batches are large.
const PIECES: usize = 12;

/// What the process is doing when it is killed, in turns.
#[derive(Clone, Copy, Debug)]
enum When {
    Starting,
    Moving,
    /// It has just written, and most likely not acknowledged yet.
    Writing,
    Pausing,
    Paused,
}

const TURNS: [When; 5] = [
    When::Moving,
    When::Writing,
    When::Starting,
    When::Pausing,
    When::Paused,
];

/// One run: what it goes over, and what was seen.
struct Run {
    course: Course,
    appender: Appender,
    /// How often more was allowed to be appended.
    fed: usize,
    kills: Vec<Kill>,
    pauses: Vec<Pause>,
    /// The length of the sink from which on nothing may move: the flag says paused, and no process that runs has read
    /// another one.
    still: Option<u64>,
}

impl Run {
    /// Allows the next part to be appended; however slow this machine is, something is left until the last kill.
    fn feed(&mut self, parts: usize) {
        self.fed += 1;
        self.appender
            .allow(self.course.rows.text().len() / (parts + 2) * self.fed);
    }

    async fn resume(&mut self, sidecar: &Sidecar) {
        if let Some(at_paused) = self.still.take() {
            let before_resume = self.course.len("sink.csv");
            self.pauses.push(Pause {
                at_paused,
                before_resume,
            });
        }
        self.course.flag.write(false).await.unwrap();
        sidecar.becomes("flights", "running").await.unwrap();
    }
}

/// The bytes of whole lines.
fn whole(sink: &[u8]) -> u64 {
    sink.iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |at| at as u64 + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_loses_nothing_and_repeats_at_most_the_batch_in_flight() {
    let kills = if Rows::real() { 20 } else { 10 };
    let rows = Rows::flights_or(20_000).unwrap();
    let state = |dir: &Path| format!("state_dir = \"{}/state\"\n", dir.display());
    let course = Course::new(Store::Vault, rows, state).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let appender = Appender::start(&course.path("source.csv"), course.rows.clone(), kills * PIECES).unwrap();
    let mut run = Run {
        course,
        appender,
        fed: 0,
        kills: Vec::new(),
        pauses: Vec::new(),
        still: None,
    };
    for turn in 0..kills {
        let when = TURNS[turn % TURNS.len()];
        let sidecar = run.course.start();
        match when {
            When::Starting => run.feed(kills),
            When::Moving | When::Writing | When::Pausing => {
                run.resume(&sidecar).await;
                let grown = run.course.grows("sink.csv");
                run.feed(kills);
                grown.await;
                if matches!(when, When::Pausing) {
                    run.course.flag.write(true).await.unwrap();
                }
            }
            When::Paused => {
                run.course.flag.write(true).await.unwrap();
                sidecar.becomes("flights", "paused").await.unwrap();
                run.still.get_or_insert_with(|| run.course.len("sink.csv"));
                run.feed(kills);
                run.course.polls(1).await;
            }
        }
        let moment = match when {
            When::Writing => Duration::ZERO,
            _ => Duration::from_micros(random.u64(0..120_000)),
        };
        sidecar.kill_after(moment).await.unwrap();
        let whole = whole(&run.course.read("sink.csv"));
        let paused = matches!(when, When::Paused);
        run.kills.push(Kill { whole, paused });
        if matches!(when, When::Pausing) {
            // The flag says paused, and whatever starts next starts held.
            run.still.get_or_insert(whole);
        }
    }

    let sidecar = run.course.start();
    run.resume(&sidecar).await;
    let Run {
        course,
        appender,
        kills: killed,
        pauses,
        ..
    } = run;
    appender.finish().await.unwrap();
    let sink = || course.read("sink.csv");
    let last = course.rows.row(course.rows.len() - 1);
    e2e::until("the last row arrives", || {
        sink()
            .strip_suffix(b"\n")
            .is_some_and(|sink| sink.ends_with(last))
    })
    .await
    .unwrap();
    let ended = sidecar.stop().await.unwrap();
    assert!(ended.success(), "{ended}");

    let repeated = judge(&course.rows, &sink(), &pauses, &killed).unwrap();
    assert!(repeated.rows.len() <= kills);
    assert!(!pauses.is_empty());
    println!(
        "{} rows, {kills} kills: none lost; {} of them brought rows again: {:?}",
        course.rows.len(),
        repeated.rows.len(),
        repeated.rows
    );
}
