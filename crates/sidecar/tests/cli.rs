//! The command line, as the contract writes it.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use std::time::Duration;
use tidegate::cli::{self, Cli, ClientCommand, Command, Instead, Until, exit};

fn read(line: &str) -> Result<Cli, Instead> {
    let words = std::iter::once("tidegate").chain(line.split_whitespace());
    cli::read(words, false)
}

fn client(line: &str) -> ClientCommand {
    match read(line)
        .unwrap_or_else(|instead| panic!("{line}: {}", instead.text))
        .command
    {
        Command::Client(command) => command,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn every_line_of_the_contract_is_understood() {
    for line in [
        "demo",
        "run --config f",
        "check --config f",
        "devstore",
        "pause",
        "pause orders app --reason r --by b --until 2026-11-22T18:00:00Z",
        "pause --for 30m --no-wait",
        "resume orders",
        "status --json",
        "status --fleet http://a http://b",
        "watch --json",
        "drain --timeout 30s --close",
        "wait --until running",
        "wait orders --until paused --timeout 1m",
        "override orders --switch ops --reason r",
        "--admin http://h:1 --token-file f status",
        "status --admin unix:/run/t.sock --token-file f -vv",
        "completions bash",
    ] {
        assert!(read(line).is_ok(), "{line}: {}", read(line).unwrap_err().text);
    }
    let ClientCommand::Pause(pause) = client("pause --for 1h30m") else {
        panic!()
    };
    assert_eq!(
        (pause.for_, pause.timeout),
        (Some(Duration::from_secs(5400)), Duration::from_secs(60))
    );
    let ClientCommand::Drain(drain) = client("drain") else {
        panic!()
    };
    assert_eq!((drain.timeout, drain.close), (Duration::from_secs(30), false));
    let ClientCommand::Wait(wait) = client("wait --until paused") else {
        panic!()
    };
    assert_eq!((wait.until, wait.timeout), (Until::Paused, None));
    assert_eq!(read("status").unwrap().global.admin, "http://127.0.0.1:9470");
}

#[test]
fn bad_use_ends_with_64_on_standard_error_and_names_what_was_expected() {
    for (line, said) in [
        ("", "Usage: tidegate"),
        ("puase", "pause"),
        ("status --jsn", "--json"),
        ("run", "--config <FILE>"),
        ("pause --for ten", "expected a duration with its unit"),
        ("pause --for 400days", "expected at most 366 days"),
        (
            "pause --until tomorrow",
            "expected a time with its zone, such as 2026-11-22T18:00:00Z",
        ),
        (
            "pause --until 2026-11-22T18:00:00",
            "expected a time with its zone",
        ),
        (
            "pause --for 1m --until 2026-11-22T18:00:00Z",
            "cannot be used with",
        ),
        ("pause --no-wait --timeout 1s", "cannot be used with"),
        ("wait", "--until <STATE>"),
        ("wait --until stopped", "running, paused"),
        ("override orders --switch ops", "--reason <REASON>"),
        ("override --switch ops --reason r", "<STREAM>..."),
        ("status --log info -v", "cannot be used with"),
    ] {
        let instead = read(line).unwrap_err();
        assert_eq!((instead.code, instead.to_stderr), (exit::USAGE, true), "{line}");
        assert!(instead.text.contains(said), "{line}: {}", instead.text);
    }
}

#[test]
fn help_and_version_are_asked_for_and_end_well() {
    for line in ["--help", "-h", "--version", "pause --help"] {
        let instead = read(line).unwrap_err();
        assert_eq!((instead.code, instead.to_stderr), (exit::OK, false), "{line}");
        assert!(!instead.text.contains('\x1b'), "{line}");
    }
    let help = read("--help").unwrap_err().text;
    for code in ["0 ", "1 ", "64", "65", "69", "75", "77", "78"] {
        assert!(
            help.lines().any(|l| l.starts_with(&format!("  {code}  "))),
            "{code} in {help}"
        );
    }
    assert!(
        read("--version")
            .unwrap_err()
            .text
            .starts_with(concat!("tidegate ", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn what_is_logged_follows_the_flags() {
    let filter = |line: &str| read(line).unwrap().global.log_filter("info");
    assert_eq!(filter("run --config f"), "info");
    assert_eq!(filter("run --config f -v"), "debug");
    assert_eq!(filter("-vv run --config f"), "trace");
    assert_eq!(
        filter("run --config f --log tidegate_gate=trace"),
        "tidegate_gate=trace"
    );
}

#[test]
fn every_shell_can_complete_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let Command::Completions(args) = read(&format!("completions {shell}")).unwrap().command else {
            panic!()
        };
        let script = String::from_utf8(args.script()).unwrap();
        for word in [
            "demo", "run", "check", "devstore", "pause", "resume", "override", "status", "watch", "drain",
            "wait",
        ] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        assert!(script.contains("no-wait"), "{shell}");
    }
}
