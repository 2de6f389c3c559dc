//! A board with a stream and a gate that serves on, its control listener on a real socket, and a screen.
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tidegate::cli::{self, ClientCommand, Command};
use tidegate::client::{self, Look, Out};
use tidegate_admin::{Admin, Hooks, Metrics, Options, Right, TokenSpec};
use tidegate_gate::{
    Cause, Clock, Controller, Holds, Kind, Life, Member, Moment, Scope, SwitchStatus, Version, Wish,
};
use tidegate_http::{Address, Limits, Listener, Tls};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes; a test that hangs ends with it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Board {
    pub(crate) holds: Arc<Holds>,
    pub(crate) orders: Member,
    pub(crate) app: Member,
    pub(crate) admin: Admin,
    pub(crate) polls: Arc<AtomicU32>,
    pub(crate) time: Arc<Mutex<Moment>>,
    pub(crate) dir: TempDir,
    /// Where it listens, as `--admin` takes it.
    pub(crate) at: String,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

/// 2026-11-22T12:00:00Z
pub(crate) fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_348_800)
}

pub(crate) fn token(name: &str) -> String {
    format!("{name}-token-of-16-bytes")
}

impl Board {
    pub(crate) async fn new() -> Board {
        Board::with("127.0.0.1:0", |_, _| None).await
    }

    /// With a token for each set of rights, in a file that is named as the token.
    pub(crate) async fn with_tokens(tokens: &[(&str, &[Right])]) -> Board {
        let tokens: Vec<(String, Vec<Right>)> = tokens
            .iter()
            .map(|(n, r)| ((*n).to_owned(), r.to_vec()))
            .collect();
        Board::with("127.0.0.1:0", move |options, dir| {
            for (name, allow) in tokens {
                let file = dir.join(&name);
                std::fs::write(&file, format!("{}\n", token(&name))).unwrap();
                options.control.tokens.push(TokenSpec { name, file, allow });
            }
            None
        })
        .await
    }

    pub(crate) async fn with(listen: &str, change: impl FnOnce(&mut Options, &Path) -> Option<Tls>) -> Board {
        let dir = tempfile::tempdir().unwrap();
        let listen = listen.replace("DIR", &dir.path().display().to_string());
        let mut options = Options::default();
        let tls = change(&mut options, dir.path());
        options.control.tls.clone_from(&tls);
        let time = Arc::new(Mutex::new(Moment {
            wall: noon(),
            mono: Instant::now(),
        }));
        let now = time.clone();
        let holds = Holds::new(Clock::new(move || *now.lock().unwrap()));
        let orders = holds.register("orders", Kind::Stream).unwrap();
        let app = holds.register("app", Kind::Gate { serves: true }).unwrap();
        orders.set_life(Life::Up);
        app.set_life(Life::Up);
        let mono = time.lock().unwrap().mono;
        holds.put_switch(SwitchStatus {
            name: "ops".into(),
            provider: "vault",
            streams: vec!["orders".into(), "app".into()],
            reading: "running",
            version: Some(Version {
                id: "7".into(),
                written: Some(noon() - Duration::from_secs(3600)),
            }),
            good_at: Some(mono),
            error: None,
            warnings: Vec::new(),
            next_poll: None,
            settled: true,
            stale: false,
        });
        let polls = Arc::new(AtomicU32::new(0));
        let counted = polls.clone();
        let hooks = Hooks {
            poll: Arc::new(move || {
                counted.fetch_add(1, Relaxed);
                Box::pin(std::future::ready(()))
            }),
            ..Hooks::default()
        };
        let base = options.control.base_path.clone();
        let admin = Admin::new(
            holds.clone(),
            Metrics::new(holds.clone(), "0.0.0-test"),
            options,
            hooks,
        )
        .unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = Listener::bind(&listen.parse().unwrap(), tls, Limits::default())
            .await
            .unwrap();
        let at = match listener.local() {
            Address::Tcp(addr) => format!("{scheme}://{addr}{base}"),
            unix => format!("{unix}:{base}"),
        };
        let mut board = Board {
            holds,
            orders,
            app,
            admin,
            polls,
            time,
            dir,
            at: at.trim_end_matches(':').to_owned(),
            stop: CancellationToken::new(),
            tasks: Vec::new(),
        };
        board.serve(listener);
        board
    }

    fn serve(&mut self, listener: Listener) {
        let serve = listener.serve(self.admin.control(), self.stop.clone());
        self.tasks.push(tokio::spawn(serve));
        let (admin, stop) = (self.admin.clone(), self.stop.clone());
        self.tasks
            .push(tokio::spawn(async move { admin.run(stop).await }));
        let (holds, stop) = (self.holds.clone(), self.stop.clone());
        self.tasks
            .push(tokio::spawn(tidegate_runtime::herald(holds, stop)));
    }

    /// Ends the listener and what belongs to it.
    pub(crate) async fn end(&mut self) {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
        }
    }

    pub(crate) fn pass(&self, time: Duration) {
        let mut now = self.time.lock().unwrap();
        now.wall += time;
        now.mono += time;
    }

    /// What a switch's poll loop does when its secret says so.
    pub(crate) fn flip(&self, paused: bool, version: &str, reason: &str) {
        let who = Controller::Switch("ops".into());
        let cause = Cause {
            actor: Some(format!("store:{version}").into()),
            ..Cause::default()
        };
        if paused {
            let wish = Wish {
                reason: Some(reason.into()),
                by: Some("ana".into()),
                cause,
                ..Wish::default()
            };
            self.holds.place(&who, Scope::All, wish).unwrap();
        } else {
            self.holds.release(&who, Scope::All, &cause).unwrap();
        }
    }

    pub(crate) fn state(&self, name: &str) -> &'static str {
        self.holds.snapshot().stream(name).unwrap().state.word()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a command line to its end.
    pub(crate) async fn run(&self, line: &str) -> Ended {
        run(&self.at, line).await
    }

    /// Runs a command line beside the test.
    pub(crate) fn start(&self, line: &str) -> Started {
        start(&self.at, line, Look::PLAIN)
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: u8,
    /// What it printed, and after that its error.
    pub(crate) text: String,
}

/// A command that runs.
pub(crate) struct Started {
    task: JoinHandle<Ended>,
    screen: Screen,
}

impl Started {
    /// Waits until the screen shows this.
    pub(crate) async fn shows(&mut self, text: &str) {
        let mut shown = self.screen.0.subscribe();
        let wait = shown.wait_for(|all| all.contains(text));
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("never shown: {text}\n--- but\n{}", *self.screen.0.borrow());
        }
    }

    pub(crate) fn screen(&self) -> String {
        self.screen.0.borrow().clone()
    }

    pub(crate) async fn end(self) -> Ended {
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("it ends")
            .unwrap()
    }

    pub(crate) fn abort(self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Screen(Arc<watch::Sender<String>>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8(bytes.to_vec()).expect("the parts that are written are whole");
        self.0.send_modify(|all| all.push_str(&text));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) async fn run(at: &str, line: &str) -> Ended {
    start(at, line, Look::PLAIN).end().await
}

/// `line` is split at blanks; `_` stands for a blank in an argument.
pub(crate) fn start(at: &str, line: &str, look: Look) -> Started {
    let words = ["tidegate", "--admin", at].map(str::to_owned).into_iter();
    let words = words.chain(line.split(' ').map(|word| word.replace('_', " ")));
    let cli = cli::read(words, false).unwrap_or_else(|instead| panic!("{line}: {}", instead.text));
    let screen = Screen(Arc::new(watch::Sender::new(String::new())));
    let mut to = screen.clone();
    let task = tokio::spawn(async move {
        let command: ClientCommand = match cli.command {
            Command::Client(command) => command,
            other => panic!("{other:?} talks to nobody"),
        };
        let done = client::run(&cli.global, &command, &mut Out::new(&mut to, look)).await;
        let (code, error) = match done {
            Ok(code) => (code, String::new()),
            Err(error) => (error.code(), format!("{error}\n")),
        };
        to.0.send_modify(|all| all.push_str(&error));
        let text = to.0.borrow().clone();
        Ended { code, text }
    });
    Started { task, screen }
}
