//! A folder with a configuration in it, a dev store, and its flag: what a measurement stands on.
use crate::flag::VaultFlag;
use anyhow::Result;
use secrecy::ExposeSecret;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tidegate_devstore::{DevStore, Options};

/// Where the flag is.
pub const SECRET: &str = "streams/orders";

/// A store and a folder; both end with this.
#[derive(Debug)]
pub struct Setup {
    /// The folder: `tidegate.toml`, the token, and whatever the streams read and write.
    pub dir: TempDir,
    /// The store.
    pub store: DevStore,
    /// The flag that the switch `ops` reads.
    pub flag: VaultFlag,
}

impl Setup {
    /// A store whose flag says that everything runs.
    ///
    /// # Errors
    /// If there is no room or no port for it.
    pub async fn new() -> Result<Setup> {
        let store = DevStore::start(Options::default()).await?;
        let flag = VaultFlag::in_store(&store, SECRET)?;
        flag.write(false).await?;
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("token"), store.root_token().expose_secret())?;
        Ok(Setup { dir, store, flag })
    }

    /// A file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a configuration with both listeners, the switch `ops` over all streams, and these streams; `store` is what
    /// the switch asks: more lines for `[switch.vault]`, its address among them.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn configure(&self, interval: Duration, store: &str, streams: &str) -> Result<PathBuf> {
        let dir = self.dir.path().display();
        let millis = interval.as_millis();
        let text = format!(
            "[control]\nlisten = \"127.0.0.1:0\"\n[observe]\nlisten = \"127.0.0.1:0\"\n\
             [[switch]]\nname = \"ops\"\nstreams = [\"*\"]\ninterval = \"{millis}ms\"\n\
             [switch.vault]\npath = \"{SECRET}\"\nauth = {{ method = \"token\", file = \"{dir}/token\" }}\n\
             {store}\n{streams}\n"
        );
        let path = self.path("tidegate.toml");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// The line for the store as it is, without TLS.
    pub fn plain(&self) -> String {
        format!("address = \"{}\"", self.store.vault_url())
    }

    /// A stream that follows one file into another, both in the folder.
    pub fn file_to_file(&self, name: &str) -> String {
        let dir: &Path = self.dir.path();
        format!(
            "[[stream]]\nname = \"{name}\"\n\
             source = {{ type = \"file\", path = \"{dir}/{name}.in\", follow = true }}\n\
             sink = {{ type = \"file\", path = \"{dir}/{name}.out\" }}\n",
            dir = dir.display()
        )
    }
}
