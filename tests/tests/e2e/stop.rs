//! Stop means stop: what SIGTERM does to a process that is paused, that runs, and that reads standard input.
use crate::harness::{Process, Site, append, eventually, rows, text_of, tidegate, within_patience};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::process::Stdio;
use tokio::process::Command;

async fn file_site() -> Site {
    let mut site = Site::new().await;
    site.write("flag", "false");
    site.add_top("state_dir = \"{dir}/state\"")
        .file_switch("ops", &["*"], "flag", "")
        .file_stream("orders");
    site
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_while_paused_exits_0_and_lets_nothing_through() {
    let site = file_site().await;
    let (process, client) = Process::run(&site, &[]).await;
    append(&site.source("orders"), &rows(0..100));
    eventually("the rows", async || {
        (text_of(&site.sink("orders")) == rows(0..100)).then_some(())
    })
    .await;
    site.write("flag", "true");
    client.reaches("orders", "paused").await;
    append(&site.source("orders"), &rows(100..200));
    client.poll().await;

    process.terminate();
    let ended = process.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(text_of(&site.sink("orders")), rows(0..100));

    // What was held was given back: the next process has it, once.
    site.write("flag", "false");
    let (process, _) = Process::run(&site, &[]).await;
    eventually("the rest", async || {
        (text_of(&site.sink("orders")) == rows(0..200)).then_some(())
    })
    .await;
    process.terminate();
    assert_eq!(process.end().await.code, Some(0));
    assert_eq!(text_of(&site.sink("orders")), rows(0..200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_while_running_finishes_what_is_in_flight_acknowledges_it_and_exits_0() {
    const ALL: usize = 300_000;
    let site = file_site().await;
    append(&site.source("orders"), &rows(0..ALL));
    let (process, _) = Process::run(&site, &[]).await;
    eventually("the first rows", async || {
        (!text_of(&site.sink("orders")).is_empty()).then_some(())
    })
    .await;
    process.terminate();
    let ended = process.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let (moved, all) = (text_of(&site.sink("orders")), rows(0..ALL));
    assert!(
        all.starts_with(&moved) && moved.ends_with('\n'),
        "no half row, none out of order"
    );

    let (process, _) = Process::run(&site, &[]).await;
    eventually("the rest", async || {
        (text_of(&site.sink("orders")).len() >= all.len()).then_some(())
    })
    .await;
    process.terminate();
    assert_eq!(process.end().await.code, Some(0));
    assert!(
        text_of(&site.sink("orders")) == all,
        "acknowledged rows came again, or some are lost"
    );
}

/// From standard input to standard output.
async fn stdin_site(top: &str) -> Site {
    let mut site = Site::new().await;
    site.add_top(top);
    site.add("[[stream]]\nname = \"lines\"\nsource = { type = \"stdin\" }\nsink = { type = \"stdout\" }\n");
    site
}

fn run_command(site: &Site) -> Command {
    let mut command = tidegate(["run", "--config"]);
    command.arg(site.config_file());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_while_standard_input_runs_writes_what_was_read_and_exits_0() {
    let site = stdin_site("").await;
    let mut command = run_command(&site);
    command.stdin(Stdio::piped());
    let (mut process, _) = Process::listening(command).await;
    process.type_in(&rows(0..100)).await;
    eventually("the rows", async || {
        (process.stdout() == rows(0..100)).then_some(())
    })
    .await;
    // Its input is still open: it must not wait for more.
    process.terminate();
    let ended = process.end().await;
    assert_eq!(
        (ended.code, ended.stdout),
        (Some(0), rows(0..100)),
        "{}",
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_standard_input_ends_the_process_once_everything_is_written() {
    let site = stdin_site("").await;
    let file = site.write("input", &rows(0..10_000));
    let mut command = run_command(&site);
    command.stdin(std::fs::File::open(file).unwrap());
    let ended = Process::spawn(command).end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout == rows(0..10_000));
}

/// A process that reads rows without end from a pipe that is also ours, and that cannot write one of them, so that it has
/// rows in flight and rows before its gate: its output is full before it starts. (An output that is only not read would
/// do for a process that has filled it, and those figures are not zero before that either.)
struct Stuck {
    process: Process,
    client: crate::harness::Client,
    /// What it reads from.
    input: PipeReader,
    output: PipeReader,
    /// How many bytes stand in the output that are not the process's.
    before: usize,
}

const ENDLESS: usize = 100_000;

impl Stuck {
    async fn start(site: &Site) -> Stuck {
        let (input, mut typing) = std::io::pipe().unwrap();
        let (output, writer) = std::io::pipe().unwrap();
        let before = fill(&writer);
        let mut command = run_command(site);
        command
            .stdin(Stdio::from(input.try_clone().unwrap()))
            .stdout(Stdio::from(writer));
        let (process, client) = Process::listening(command).await;
        std::thread::spawn(move || {
            // Ends when the pipe has been read to the end, or when nobody reads it any more.
            let _ = typing.write_all(rows(0..ENDLESS).as_bytes());
        });
        eventually("rows in flight and rows before the gate", async || {
            let stream = client.stream("lines").await;
            (stream["in_flight"].as_u64()? > 0 && stream["held"].as_u64()? > 0).then_some(())
        })
        .await;
        Stuck {
            process,
            client,
            input,
            output,
            before,
        }
    }
}

/// Writes into a pipe until it takes no byte more, and says how many it took.
fn fill(mut pipe: &PipeWriter) -> usize {
    let flags = fcntl_getfl(pipe).unwrap();
    fcntl_setfl(pipe, flags | OFlags::NONBLOCK).unwrap();
    let mut written = 0;
    // A page that is not empty takes no write that does not fit into it.
    for size in [4096, 1] {
        loop {
            match pipe.write(&vec![b'.'; size]) {
                Ok(n) => written += n,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
    }
    fcntl_setfl(pipe, flags).unwrap();
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_while_standard_input_is_paused_exits_75_and_counts_exactly_what_was_read_and_not_written() {
    let site = stdin_site("").await;
    let Stuck {
        mut process,
        client,
        mut input,
        output,
        before,
    } = Stuck::start(&site).await;
    client.post("/pause").await;
    client.reaches("lines", "pausing").await;
    process.hear(output);
    let held = client.reaches("lines", "paused").await["held"].as_u64().unwrap();
    assert!(held > 0);
    process.terminate();
    let ended = process.end().await;
    assert_eq!(ended.code, Some(75), "{}", ended.stderr);

    let stdout = &ended.stdout[before..];
    let written = stdout.lines().count();
    assert!(
        stdout == rows(0..written),
        "whole rows, in order, and none after `paused`"
    );
    let told = ended
        .stderr
        .lines()
        .find(|line| line.starts_with("tidegate:"))
        .unwrap();
    let lost: usize = told
        .split_whitespace()
        .find_map(|word| word.parse().ok())
        .unwrap();
    assert!(
        told.contains("\"lines\"") && told.contains("read and not written"),
        "{told}"
    );

    // What is neither written nor counted is still in the pipe. It may begin in the middle of a row, which counts as
    // read.
    let mut left = Vec::new();
    let reading = tokio::task::spawn_blocking(move || input.read_to_end(&mut left).map(|_| left));
    let left = within_patience("the rest of the pipe", reading)
        .await
        .unwrap()
        .unwrap();
    let left = String::from_utf8(left).unwrap();
    let whole = rows(ENDLESS - left.lines().count()..ENDLESS);
    let untouched = left.lines().count() - usize::from(whole != left);
    assert_eq!(
        written + lost + untouched,
        ENDLESS,
        "{written} written, {lost} told, {untouched} left"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_never_ends_cannot_keep_the_process_beyond_its_grace() {
    let site = stdin_site("shutdown_grace = \"500ms\"\ndrain_delay = \"0s\"").await;
    // Its output is not read before its end.
    let stuck = Stuck::start(&site).await;
    stuck.process.terminate();
    let ended = stuck.process.end().await;
    assert_eq!(ended.code, Some(75), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("shutdown_grace was over"),
        "{}",
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_does_no_harm() {
    let site = file_site().await;
    site.write("flag", "true");
    append(&site.source("orders"), &rows(0..100));
    let (process, client) = Process::run(&site, &[]).await;
    client.reads("ops", "paused").await;
    process.terminate();
    process.terminate();
    let ended = process.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(text_of(&site.sink("orders")), "");
}
