//! Somebody else's server as a child process.
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// A server that listens on one port; it is killed when this is dropped.
pub(crate) struct Server {
    program: &'static str,
    args: Vec<String>,
    dir: PathBuf,
    pub(crate) address: SocketAddr,
    child: Child,
}

/// A port that nobody listens on now. Below those that the system gives to whoever asks for any: a server that takes
/// seconds to start, or is started again, must not find its port with somebody else's connection. And never one twice:
/// until such a server has it, it looks free to other tests as well.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = fastrand::u16(10_000..32_000);
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free && GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

impl Server {
    /// Starts it and waits until it takes connections.
    pub(crate) async fn start(program: &'static str, args: Vec<String>, dir: PathBuf, port: u16) -> Server {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let child = spawn(program, &args, &dir);
        let mut server = Server {
            program,
            args,
            dir,
            address,
            child,
        };
        server.listens().await;
        server
    }

    async fn listens(&mut self) {
        let up = async {
            while TcpStream::connect(self.address).await.is_err() {
                if let Some(ended) = self.child.try_wait().unwrap() {
                    let log = std::fs::read_to_string(self.dir.join("server.log"));
                    panic!(
                        "{} ended: {ended}; it said: {}",
                        self.program,
                        log.unwrap_or_default()
                    );
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(e2e::PATIENCE, up)
            .await
            .unwrap_or_else(|_| panic!("{} does not listen", self.program));
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// kill -9.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts it again on its port and over its data.
    pub(crate) async fn start_again(&mut self) {
        self.child = spawn(self.program, &self.args, &self.dir);
        self.listens().await;
    }
}

fn spawn(program: &str, args: &[String], dir: &std::path::Path) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("server.log"))
        .unwrap();
    Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}: tests/peers/run.sh installs it"))
}
