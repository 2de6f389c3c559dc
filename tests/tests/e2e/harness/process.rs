//! The sidecar as a process: its exit code, and everything it says.
use super::{Client, Site, eventually, within_patience};
use serde_json::Value;
use std::io::PipeReader;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

/// A command with nothing of this machine's environment in it.
pub(crate) fn tidegate<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_e2e-tidegate"));
    command
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// How a process ended, and all that it said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// None if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end.
pub(crate) async fn run(command: Command) -> Ended {
    Process::spawn(command).end().await
}

/// A process that runs; it is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Heard,
    stderr: Heard,
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Process {
        let mut child = command.spawn().unwrap();
        Process {
            stdin: child.stdin.take(),
            stdout: Heard::from(child.stdout.take()),
            stderr: Heard::from(child.stderr.take()),
            child,
        }
    }

    /// `tidegate run` over a site, and a client of it as soon as it listens.
    pub(crate) async fn run(site: &Site, args: &[&str]) -> (Process, Client) {
        let mut command = tidegate(["run", "--config"]);
        command.arg(site.config_file()).args(args);
        Process::listening(command).await
    }

    /// Reads its standard output out of this pipe from now on, whose other end it was given.
    pub(crate) fn hear(&mut self, pipe: PipeReader) {
        let pipe = std::process::ChildStdout::from(OwnedFd::from(pipe));
        self.stdout = Heard::from(Some(ChildStdout::from_std(pipe).unwrap()));
    }

    /// A process that says where it listens.
    pub(crate) async fn listening(command: Command) -> (Process, Client) {
        let mut process = Process::spawn(command);
        let line = eventually("the sidecar listens", || {
            let listening = process
                .log()
                .into_iter()
                .find(|line| line["message"] == "listening");
            let ended = process.child.try_wait().unwrap();
            assert!(
                listening.is_some() || ended.is_none(),
                "{ended:?}: {}",
                process.stderr.text()
            );
            std::future::ready(listening)
        })
        .await;
        let client = Client::new(
            line["control"].as_str().unwrap(),
            line["observe"].as_str().unwrap(),
        );
        (process, client)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Every line of standard error that is JSON: the log and the audit.
    pub(crate) fn log(&self) -> Vec<Value> {
        let text = self.stderr.text();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Writes to its standard input, which has to be piped.
    pub(crate) async fn type_in(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).await.unwrap();
        stdin.flush().await.unwrap();
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Waits for its end, and returns all that it said. Standard input stays open until then.
    pub(crate) async fn end(mut self) -> Ended {
        // `Child::wait` would close standard input, had it not been taken.
        let status = within_patience("the process ends", self.child.wait())
            .await
            .unwrap();
        Ended {
            code: status.code(),
            stdout: self.stdout.whole().await,
            stderr: self.stderr.whole().await,
        }
    }
}

/// What came out of a pipe so far.
struct Heard {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Heard {
    fn from(pipe: Option<impl AsyncRead + Unpin + Send + 'static>) -> Heard {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = bytes.clone();
        let reader = tokio::spawn(async move {
            let Some(mut pipe) = pipe else { return };
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut piece).await {
                into.lock().unwrap().extend_from_slice(&piece[..n]);
            }
        });
        Heard { bytes, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    async fn whole(mut self) -> String {
        within_patience("the pipe closes", &mut self.reader)
            .await
            .unwrap();
        self.text()
    }
}
