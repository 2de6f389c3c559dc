//! `tidegate run` as a process: what it says on standard error, what its control API answers, how it ends.
use crate::PATIENCE;
use crate::flag::client;
use anyhow::{Context, Result, bail, ensure};
use reqwest::Client;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;

/// A running tidegate; it is killed when this is dropped, and a test that fails shows what it said.
#[derive(Debug)]
pub struct Sidecar {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    lines: watch::Receiver<usize>,
    listens: watch::Receiver<Option<(String, String)>>,
    client: Client,
}

impl Sidecar {
    /// Starts `program run --config …` with nothing on its standard input; returns at once.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(program: &Path, config: &Path) -> Result<Sidecar> {
        let mut command = Command::new(program);
        command
            .arg("run")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Sidecar::from(command)
    }

    /// Starts a command whose standard input and output are up to the caller.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn from(mut command: Command) -> Result<Sidecar> {
        let mut child = command
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting tidegate")?;
        let stderr = child.stderr.take().context("its standard error")?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let (tell, listens) = watch::channel(None);
        let (count, lines) = watch::channel(0);
        tokio::spawn(listen(stderr, said.clone(), tell, count));
        Ok(Sidecar {
            child,
            said,
            lines,
            listens,
            client: client()?,
        })
    }

    /// Its process id.
    ///
    /// # Errors
    /// If it has ended.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("tidegate has ended")
    }

    /// The addresses of the control and observe listeners, once it listens.
    ///
    /// # Errors
    /// If it ends before it listens.
    pub async fn addresses(&self) -> Result<(String, String)> {
        let mut listens = self.listens.clone();
        let told = tokio::time::timeout(PATIENCE, listens.wait_for(Option::is_some)).await;
        match told {
            Ok(Ok(told)) => Ok(told.clone().unwrap_or_default()),
            Ok(Err(_)) => bail!("tidegate ended before it listened"),
            Err(_) => bail!("tidegate did not listen within {PATIENCE:?}"),
        }
    }

    /// What `GET path` of the control listener answers.
    ///
    /// # Errors
    /// If it cannot be asked or does not answer 200 with JSON.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let (control, _) = self.addresses().await?;
        let answer = self.client.get(format!("http://{control}{path}")).send().await?;
        ensure!(answer.status().is_success(), "GET {path}: {}", answer.status());
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    }

    /// One stream in `/status`.
    ///
    /// # Errors
    /// If it cannot be asked or knows no such stream.
    pub async fn stream(&self, name: &str) -> Result<Value> {
        let mut status = self.get("/status").await?;
        let streams = status["streams"].as_array_mut().context("streams")?;
        let found = streams.iter_mut().find(|s| s["name"] == name);
        Ok(found.with_context(|| format!("no stream {name}"))?.take())
    }

    /// Asks `/status` again and again until a stream is in that state, and returns what it said then.
    ///
    /// # Errors
    /// If that does not happen, or it cannot be asked.
    pub async fn becomes(&self, name: &str, state: &str) -> Result<Value> {
        let asked = async {
            loop {
                let stream = self.stream(name).await?;
                if stream["state"] == state {
                    return Ok(stream);
                }
            }
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(found) => found,
            Err(_) => bail!("{name} was not {state} within {PATIENCE:?}"),
        }
    }

    /// Asks `/status` until it is as `is_so` wants it.
    ///
    /// # Errors
    /// If that does not happen, with what was waited for and what it said last, or if it cannot be asked.
    pub async fn status_until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
        // Long beside a status, short beside a poll.
        let mut looks = crate::looks(Duration::from_millis(5));
        let began = Instant::now();
        loop {
            looks.tick().await;
            let status = self.get("/status").await?;
            if is_so(&status) {
                return Ok(());
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "waited {PATIENCE:?} in vain: {what}: {status}"
            );
        }
    }

    /// What `/metrics` of the observe listener says.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub async fn metrics(&self) -> Result<String> {
        let (_, observe) = self.addresses().await?;
        let answer = self
            .client
            .get(format!("http://{observe}/metrics"))
            .send()
            .await?;
        Ok(answer.error_for_status()?.text().await?)
    }

    /// The lines on its standard error so far.
    pub fn said(&self) -> Vec<String> {
        // A list of lines is whole whatever happened to whoever held it.
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a line on standard error is one of these, and returns at once.
    ///
    /// # Errors
    /// If none comes.
    pub async fn heard(&self, is_one: impl Fn(&str) -> bool) -> Result<()> {
        let mut lines = self.lines.clone();
        let heard = lines.wait_for(|_| self.said().iter().any(|line| is_one(line)));
        match tokio::time::timeout(PATIENCE, heard).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => bail!("tidegate ended before it said so"),
            Err(_) => bail!("tidegate did not say so within {PATIENCE:?}"),
        }
    }

    /// Lets it live until `moment` has passed, then kills it with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// If it ended by itself before that.
    pub async fn kill_after(mut self, moment: Duration) -> Result<()> {
        if let Ok(ended) = tokio::time::timeout(moment, self.child.wait()).await {
            bail!("tidegate ended by itself: {}", ended?);
        }
        self.child.kill().await.context("kill -9")
    }

    /// Sends SIGTERM and waits for its end.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        signal(self.pid()?, Signal::TERM)?;
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(ended) => Ok(ended?),
            Err(_) => bail!("tidegate did not end within {PATIENCE:?} of SIGTERM"),
        }
    }
}

/// Sends a signal to a process.
///
/// # Errors
/// If there is no such process.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid.try_into()?).context("process ids begin at 1")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

async fn listen(
    stderr: ChildStderr,
    said: Arc<Mutex<Vec<String>>>,
    tell: watch::Sender<Option<(String, String)>>,
    count: watch::Sender<usize>,
) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(Value::Object(fields)) = serde_json::from_str(&line)
            && fields.get("message").is_some_and(|m| m == "listening")
        {
            let address = |name| {
                fields
                    .get(name)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            tell.send_replace(Some((address("control"), address("observe"))));
        }
        said.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        count.send_modify(|count| *count += 1);
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.said();
            let from = said.len().saturating_sub(40);
            // Standard error of a test is shown when it fails.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("tidegate said last:\n{}", said[from..].join("\n"));
            }
        }
    }
}
