//! `tidegate demo` as a newcomer meets it: what it prints is run as it stands, Enter flips, a taken port is named.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use e2e::flag::client;
use e2e::sidecar::signal;
use e2e::{PATIENCE, until};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use tokio::process::{Child, Command};

/// A demo on ports of its own, and all that it prints.
struct Demo {
    child: Child,
    printed: Arc<Mutex<String>>,
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_e2e-tidegate"));
    command.arg("demo").kill_on_drop(true);
    command
}

fn on_free_ports() -> Command {
    let mut command = command();
    for listen in ["--store-listen", "--control-listen", "--observe-listen"] {
        command.arg(listen).arg("127.0.0.1:0");
    }
    command
}

/// Gathers what can be read until its end. A thread: a terminal is read without tokio.
fn gather(mut from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let printed = Arc::new(Mutex::new(String::new()));
    let into = printed.clone();
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        // A terminal whose last process has left reads as an error.
        while let Ok(n @ 1..) = from.read(&mut piece) {
            into.lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(&piece[..n]));
        }
    });
    printed
}

impl Demo {
    /// With a pipe as standard output, and this as standard input.
    fn start(stdin: impl Into<Stdio>) -> Demo {
        let (reader, writer) = std::io::pipe().unwrap();
        let child = on_free_ports().stdin(stdin).stdout(writer).spawn().unwrap();
        Demo {
            child,
            printed: gather(reader),
        }
    }

    fn printed(&self) -> String {
        self.printed.lock().unwrap().clone()
    }

    async fn prints(&self, what: &str, found: impl Fn(&str) -> bool) {
        let waited = until(what, || found(&self.printed())).await;
        assert!(waited.is_ok(), "{what}; it printed\n{}", self.printed());
    }

    /// What it prints before the first change, whole.
    async fn introduction(&self) -> String {
        self.prints("the introduction", |text| text.contains("Ctrl-C ends it."))
            .await;
        self.printed()
    }

    /// The lines that can be pasted: the pausing one and the resuming one.
    async fn curl_lines(&self) -> Vec<String> {
        let text = self.introduction().await;
        text.lines()
            .filter(|l| l.starts_with("curl"))
            .map(str::to_owned)
            .collect()
    }

    async fn becomes(&self, state: &str) -> Value {
        let text = self.introduction().await;
        let control = text
            .split_whitespace()
            .skip_while(|w| *w != "control")
            .nth(1)
            .unwrap()
            .to_owned();
        let client = client().unwrap();
        let asked = async {
            loop {
                let answer = client.get(format!("{control}/status")).send().await.unwrap();
                let status: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
                if status["streams"][0]["state"] == state {
                    return status["streams"][0].clone();
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .unwrap_or_else(|_| panic!("never {state}: {}", self.printed()))
    }

    async fn interrupt(mut self) -> ExitStatus {
        signal(self.child.id().unwrap(), Signal::INT).unwrap();
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .unwrap()
            .unwrap()
    }
}

#[tokio::test]
async fn the_curl_lines_that_the_demo_prints_pause_and_resume_it() {
    let demo = Demo::start(Stdio::null());
    let lines = demo.curl_lines().await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    demo.becomes("running").await;

    for (line, state) in lines.iter().zip(["paused", "running"]) {
        let ran = Command::new("sh").arg("-c").arg(line).output().await.unwrap();
        assert!(ran.status.success(), "{line}: {ran:?}");
        let answer: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert!(answer["data"]["version"].is_u64(), "{line}: {answer}");
        let stream = demo.becomes(state).await;
        if state == "paused" {
            assert_eq!(stream["in_flight"], 0);
            demo.prints("the rate falls to zero", |text| {
                text.lines().any(|l| l.contains("  paused  0 events/s"))
            })
            .await;
        } else {
            demo.prints("the rate comes back", |text| {
                let after = text.rsplit_once("  paused  ").unwrap().1;
                after
                    .lines()
                    .any(|l| l.contains("  running  ") && !l.contains("  running  0 events/s"))
            })
            .await;
        }
    }
    let ended = demo.interrupt().await;
    assert_eq!(ended.code(), Some(0), "{ended}");
}

#[tokio::test]
async fn the_lines_for_the_official_client_say_the_same_as_those_for_curl() {
    let demo = Demo::start(Stdio::null());
    let text = demo.introduction().await;
    let vault: Vec<&str> = text.lines().filter(|l| l.starts_with("VAULT_ADDR=")).collect();
    let curl = demo.curl_lines().await;
    assert_eq!(vault.len(), 2, "{text}");
    for ((vault, curl), flag) in vault.iter().zip(&curl).zip(["true", "false"]) {
        assert!(
            vault.ends_with(&format!(" vault kv put secret/streams/demo IsPaused={flag}")),
            "{vault}"
        );
        assert!(curl.contains(&format!("\"IsPaused\":{flag}")), "{curl}");
        let address = vault
            .split_whitespace()
            .next()
            .unwrap()
            .trim_start_matches("VAULT_ADDR=");
        assert!(
            curl.ends_with(&format!("{address}/v1/secret/data/streams/demo")),
            "{curl}"
        );
    }
}

#[tokio::test]
async fn enter_flips_and_the_end_of_input_means_nothing() {
    let (reader, mut keyboard) = std::io::pipe().unwrap();
    let demo = Demo::start(reader);
    demo.becomes("running").await;
    keyboard.write_all(b"\n").unwrap();
    demo.becomes("paused").await;
    keyboard.write_all(b"\n").unwrap();
    demo.becomes("running").await;
    keyboard.write_all(b"\n").unwrap();
    drop(keyboard);
    let stream = demo.becomes("paused").await;
    assert_eq!(stream["holds"][0]["by"], "Enter");
    let ended = demo.interrupt().await;
    assert_eq!(ended.code(), Some(0), "{ended}");
}

#[tokio::test]
async fn on_a_terminal_a_live_line_is_drawn_over_and_enter_flips() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = || {
        let end = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        Stdio::from(OwnedFd::from(end))
    };
    let child = on_free_ports()
        .stdin(terminal())
        .stdout(terminal())
        .env_remove("NO_COLOR")
        .spawn()
        .unwrap();
    let mut keyboard = File::from(master);
    let demo = Demo {
        child,
        printed: gather(keyboard.try_clone().unwrap()),
    };
    demo.becomes("running").await;
    demo.prints("a live line in colour", |text| {
        text.contains("\r\x1b[2Khost  \x1b[32mrunning\x1b[0m")
    })
    .await;
    keyboard.write_all(b"\n").unwrap();
    demo.becomes("paused").await;
    demo.prints("the rate falls to zero", |text| {
        text.contains("paused\x1b[0m  0 events/s")
    })
    .await;
    keyboard.write_all(b"\n").unwrap();
    demo.becomes("running").await;
    let ended = demo.interrupt().await;
    assert_eq!(ended.code(), Some(0), "{ended}");
}

#[tokio::test]
async fn a_taken_port_is_named_with_who_holds_it() {
    for option in ["--store-listen", "--control-listen", "--observe-listen"] {
        let mine = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = mine.local_addr().unwrap().to_string();
        let mut command = command();
        for listen in ["--store-listen", "--control-listen", "--observe-listen"] {
            let at = if listen == option {
                address.as_str()
            } else {
                "127.0.0.1:0"
            };
            command.arg(listen).arg(at);
        }
        let ended = tokio::time::timeout(PATIENCE, command.stdin(Stdio::null()).output())
            .await
            .unwrap()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(69), "{option}: {said}");
        assert_eq!(said.lines().count(), 1, "{option}: {said}");
        for part in [address.as_str(), "taken", &std::process::id().to_string()] {
            assert!(said.contains(part), "{option}: no {part} in {said}");
        }
    }
}
