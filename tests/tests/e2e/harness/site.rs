//! A folder with everything a sidecar is pointed at, and a dev store.
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tidegate_devstore::{DevStore, Options};

pub(super) const FREE_PORTS: &str =
    "[control]\nlisten = \"127.0.0.1:0\"\n[observe]\nlisten = \"127.0.0.1:0\"\n";

/// Goes away with everything in it when it is dropped.
pub(crate) struct Site {
    dir: TempDir,
    pub(crate) store: DevStore,
    config: String,
}

impl Site {
    /// Both surfaces on free ports of loopback; no switch and no stream yet.
    pub(crate) async fn new() -> Site {
        Site::with(FREE_PORTS).await
    }

    /// A site whose configuration begins like this.
    pub(crate) async fn with(config: &str) -> Site {
        Site::over(config, Options::default()).await
    }

    /// The same, with a root token of the caller's for the store.
    pub(crate) async fn with_root_token(config: &str, token: &str) -> Site {
        let root_token = Some(SecretString::from(token));
        Site::over(
            config,
            Options {
                root_token,
                ..Options::default()
            },
        )
        .await
    }

    pub(super) async fn over(config: &str, options: Options) -> Site {
        // Whoever builds a TLS client needs it, the tests' own among them.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let store = DevStore::start(options).await.unwrap();
        let site = Site {
            dir: tempfile::tempdir().unwrap(),
            store,
            config: config.to_owned(),
        };
        site.write("vault-token", site.root_token());
        site
    }

    pub(crate) fn root_token(&self) -> &str {
        self.store.root_token().expose_secret()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file whole, in the folder.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        // In one step, so that no reader meets half of it.
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        // Some of them are tokens, which nobody else should be able to read.
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(&new, &path).unwrap();
        path
    }

    /// More of the configuration; `{dir}` is the folder.
    pub(crate) fn add(&mut self, toml: &str) -> &mut Site {
        self.config
            .push_str(&toml.replace("{dir}", self.dir.path().to_str().unwrap()));
        self.config.push('\n');
        self
    }

    /// Something at the very top of the configuration, before its first table.
    pub(crate) fn add_top(&mut self, toml: &str) -> &mut Site {
        let toml = toml.replace("{dir}", self.dir.path().to_str().unwrap());
        self.config.insert_str(0, &format!("{toml}\n"));
        self
    }

    /// A switch on a secret of the store's `secret` mount, polled as often as it may be.
    pub(crate) fn vault_switch(
        &mut self,
        name: &str,
        streams: &[&str],
        path: &str,
        options: &str,
    ) -> &mut Site {
        let vault = format!(
            "vault = {{ address = \"{}\", path = \"{path}\", auth = {{ method = \"token\", file = \"{{dir}}/vault-token\" }} }}",
            self.store.vault_url(),
        );
        self.switch(name, streams, options, &vault)
    }

    /// A switch on a file of the folder.
    pub(crate) fn file_switch(
        &mut self,
        name: &str,
        streams: &[&str],
        file: &str,
        options: &str,
    ) -> &mut Site {
        self.switch(
            name,
            streams,
            options,
            &format!("file = {{ path = \"{{dir}}/{file}\" }}"),
        )
    }

    pub(super) fn switch(
        &mut self,
        name: &str,
        streams: &[&str],
        options: &str,
        provider: &str,
    ) -> &mut Site {
        let interval = if options.contains("interval") {
            ""
        } else {
            "interval = \"100ms\"\n"
        };
        let mut toml = String::new();
        write!(
            toml,
            "[[switch]]\nname = \"{name}\"\nstreams = {streams:?}\n{interval}{options}\n{provider}\n"
        )
        .unwrap();
        self.add(&toml)
    }

    /// A stream from `<name>.in`, which is made here, to `<name>.out`; it goes on at the end.
    pub(crate) fn file_stream(&mut self, name: &str) -> &mut Site {
        append(&self.source(name), "");
        self.add(&format!(
            "[[stream]]\nname = \"{name}\"\n\
             source = {{ type = \"file\", path = \"{{dir}}/{name}.in\", follow = true }}\n\
             sink = {{ type = \"file\", path = \"{{dir}}/{name}.out\" }}\n"
        ))
    }

    pub(crate) fn source(&self, stream: &str) -> PathBuf {
        self.path(&format!("{stream}.in"))
    }

    pub(crate) fn sink(&self, stream: &str) -> PathBuf {
        self.path(&format!("{stream}.out"))
    }

    pub(crate) fn config(&self) -> &str {
        &self.config
    }

    /// The configuration as a file.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.write("tidegate.toml", &self.config)
    }

    /// Writes a secret past the wire and returns its version.
    pub(crate) fn put(&self, path: &str, data: Value) -> u64 {
        self.store.vault().put("secret", path, data).unwrap()
    }

    /// Writes a flag past the wire and returns its version.
    pub(crate) fn flag(&self, path: &str, paused: bool) -> u64 {
        self.put(path, json!({ "IsPaused": paused }))
    }
}

/// Appends to a file in one write; makes it where it is not there.
pub(crate) fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Lines with these numbers.
pub(crate) fn rows(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|n| format!("{{\"row\":{n}}}\n")).collect()
}

/// What a file holds; nothing where there is none yet.
pub(crate) fn text_of(path: &Path) -> String {
    match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}
