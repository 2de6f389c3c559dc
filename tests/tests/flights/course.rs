//! One run's folder, store and flag.
use e2e::flag::VaultFlag;
use e2e::rows::Rows;
use e2e::sidecar::Sidecar;
use secrecy::ExposeSecret;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use tidegate_devstore::{DevStore, Options};

pub(crate) const SECRET: &str = "streams/flights";

pub(crate) struct Course {
    pub(crate) rows: Arc<Rows>,
    pub(crate) store: DevStore,
    pub(crate) flag: VaultFlag,
    dir: TempDir,
}

impl Course {
    /// With a switch `ops` that holds the stream `flights`; `more` is the rest of the configuration.
    pub(crate) async fn new(rows: Rows, more: impl Fn(&Path) -> String) -> Course {
        println!("{}", rows.what);
        let store = DevStore::start(Options::default()).await.unwrap();
        let flag = VaultFlag::in_store(&store, SECRET).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        std::fs::write(at.join("token"), store.root_token().expose_secret()).unwrap();
        let config = format!(
            r#"
            [control]
            listen = "127.0.0.1:0"
            [observe]
            listen = "127.0.0.1:0"
            [[switch]]
            name = "ops"
            streams = ["flights"]
            interval = "100ms"
            [switch.vault]
            address = "{store}"
            path = "{SECRET}"
            auth = {{ method = "token", file = "{dir}/token" }}
            [[stream]]
            name = "flights"
            source = {{ type = "file", path = "{dir}/source.csv", follow = true }}
            sink = {{ type = "file", path = "{dir}/sink.csv" }}
            "#,
            store = store.vault_url(),
            dir = at.display(),
        );
        std::fs::write(at.join("tidegate.toml"), more(at) + &config).unwrap();
        Course {
            rows: Arc::new(rows),
            store,
            flag,
            dir,
        }
    }

    pub(crate) fn start(&self) -> Sidecar {
        let program = Path::new(env!("CARGO_BIN_EXE_e2e-tidegate"));
        Sidecar::start(program, &self.path("tidegate.toml")).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// The length of a file; 0 where there is none yet.
    pub(crate) fn len(&self, name: &str) -> u64 {
        std::fs::metadata(self.path(name)).map_or(0, |m| m.len())
    }

    /// Waits until a file is longer than that.
    pub(crate) async fn outgrows(&self, name: &str, len: u64) {
        e2e::until(&format!("{name} outgrows {len} bytes"), || self.len(name) > len)
            .await
            .unwrap();
    }

    /// Waits until a file is longer than now; returns in the very moment, since it looks without a rest.
    pub(crate) fn grows(&self, name: &str) -> impl Future<Output = ()> + use<> {
        let (path, len) = (self.path(name), self.len(name));
        let looked = async move {
            while std::fs::metadata(&path).map_or(0, |m| m.len()) <= len {
                tokio::task::yield_now().await;
            }
        };
        async { tokio::time::timeout(e2e::PATIENCE, looked).await.unwrap() }
    }

    /// Waits until so many more polls have been answered.
    pub(crate) async fn polls(&self, more: u64) {
        let path = self.flag.api_path();
        let seen = self.store.requests().count(path);
        let reached = self.store.requests().reached(path, seen + more);
        tokio::time::timeout(e2e::PATIENCE, reached).await.unwrap();
    }
}
