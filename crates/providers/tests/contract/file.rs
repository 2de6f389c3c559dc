//! A file that is replaced by a rename, and a volume as the kubelet mounts it.
use crate::bench::Bench;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use tidegate_providers::{File, Provider};

pub(crate) struct OneFile {
    dir: tempfile::TempDir,
}

impl OneFile {
    fn path(&self) -> PathBuf {
        self.dir.path().join("flag")
    }
    fn replace(&self, with: impl FnOnce(&Path)) {
        let next = self.dir.path().join("next");
        with(&next);
        std::fs::rename(next, self.path()).unwrap();
    }
}

impl Bench for OneFile {
    async fn open() -> Self {
        OneFile {
            dir: tempfile::tempdir().unwrap(),
        }
    }
    fn provider(&self) -> Box<dyn Provider> {
        Box::new(File::new(self.path()))
    }
    fn other(&self) -> Box<dyn Provider> {
        Box::new(File::new(self.dir.path().join("other")))
    }
    async fn set(&self, fields: &[(&str, &str)]) {
        let object: serde_json::Map<_, _> = fields
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).into()))
            .collect();
        let text = serde_json::Value::Object(object).to_string();
        self.replace(|next| std::fs::write(next, &text).unwrap());
    }
    fn ailments(&self) -> Vec<(&'static str, &'static str)> {
        vec![
            ("missing", "removed"),
            ("missing", "a link that leads nowhere"),
            ("malformed", "emptied"),
            ("malformed", "half written"),
            ("malformed", "a word"),
            ("unavailable", "a device"),
        ]
    }
    async fn ail(&self, way: &str) {
        match way {
            "removed" => std::fs::remove_file(self.path()).unwrap(),
            "a link that leads nowhere" => self.replace(|next| symlink("nowhere", next).unwrap()),
            "a device" => self.replace(|next| symlink("/dev/zero", next).unwrap()),
            // In place, as a careless editor does it.
            "emptied" => std::fs::write(self.path(), "").unwrap(),
            "half written" => std::fs::write(self.path(), r#"{"IsPaused": "MARKED"#).unwrap(),
            _ => std::fs::write(self.path(), "MARKED").unwrap(),
        }
    }
    async fn heal(&self) {}
}

/// `..data` points to the directory of one generation, and each visible name through it.
pub(crate) struct Volume {
    dir: tempfile::TempDir,
    generation: AtomicU64,
}

impl Volume {
    fn swap(&self, fields: &[(&str, &str)]) {
        let root = self.dir.path();
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let data = format!("..{generation}");
        std::fs::create_dir(root.join(&data)).unwrap();
        for (name, text) in fields {
            std::fs::write(root.join(&data).join(name), text).unwrap();
        }
        let link = root.join("..data_tmp");
        symlink(&data, &link).unwrap();
        std::fs::rename(&link, root.join("..data")).unwrap();
        if generation > 0 {
            std::fs::remove_dir_all(root.join(format!("..{}", generation - 1))).unwrap();
        }
    }
}

impl Bench for Volume {
    async fn open() -> Self {
        Volume {
            dir: tempfile::tempdir().unwrap(),
            generation: AtomicU64::new(0),
        }
    }
    fn provider(&self) -> Box<dyn Provider> {
        Box::new(File::new(self.dir.path()))
    }
    fn other(&self) -> Box<dyn Provider> {
        Box::new(File::new(self.dir.path().join("other")))
    }
    async fn set(&self, fields: &[(&str, &str)]) {
        self.swap(fields);
    }
    fn ailments(&self) -> Vec<(&'static str, &'static str)> {
        vec![
            ("missing", "the key taken out"),
            ("malformed", "a word"),
            ("malformed", "two keys that differ in case"),
        ]
    }
    async fn ail(&self, way: &str) {
        match way {
            "the key taken out" => self.swap(&[("password", "MARKED")]),
            "a word" => self.swap(&[("IsPaused", "MARKED")]),
            _ => self.swap(&[("IsPaused", "true"), ("ispaused", "true")]),
        }
    }
    async fn heal(&self) {}
}
