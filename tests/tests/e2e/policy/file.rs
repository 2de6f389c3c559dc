//! What can go wrong with a file.
use super::{Kind, Sidecar, Store, all_cells};
use crate::harness::{Client, Process, Running, Site, tidegate};
use serde_json::Value;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Command;

#[derive(Clone, Copy, Debug)]
pub(super) enum File {
    Removed,
    FolderRemoved,
    DanglingLink,
    EmptyFolder,
    KeyAbsent,
    Empty,
    Word,
    Number,
    List,
    NotText,
    TwoMegabytes,
    NoLeaveToRead,
    ADevice,
    Hangs,
}

impl File {
    pub(super) const ALL: &[File] = &[
        File::Removed,
        File::FolderRemoved,
        File::DanglingLink,
        File::EmptyFolder,
        File::KeyAbsent,
        File::Empty,
        File::Word,
        File::Number,
        File::List,
        File::NotText,
        File::TwoMegabytes,
        File::NoLeaveToRead,
        File::ADevice,
        File::Hangs,
    ];

    fn folder(site: &Site) -> PathBuf {
        site.path("mounted")
    }

    fn path(site: &Site) -> PathBuf {
        File::folder(site).join("flag")
    }

    fn write(site: &Site, bytes: &[u8]) {
        File::clear(site);
        let new = site.path("new-flag");
        std::fs::write(&new, bytes).unwrap();
        std::fs::rename(new, File::path(site)).unwrap();
    }

    fn clear(site: &Site) {
        let path = File::path(site);
        if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            std::fs::remove_dir(path).unwrap();
        }
    }

    fn replace_by(site: &Site, make: impl FnOnce(&PathBuf)) {
        let path = File::path(site);
        std::fs::remove_file(&path).unwrap();
        make(&path);
    }

    fn mode(site: &Site, mode: u32) {
        std::fs::set_permissions(File::path(site), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Root may read everything, so a root's sidecar is run as somebody else.
    async fn as_somebody_without_rights(site: &Site) -> (Process, Client) {
        const NOBODY: u32 = 65534;
        let config = site.config_file();
        let mut command = tidegate(["run", "--config"]);
        if rustix::process::geteuid().is_root() {
            // The folder with the build may be closed to everybody else. Copied by a process of its own: this one is copying
            // itself all the time to start others, and a program that one of those copies may still write to cannot be run.
            let program = site.path("tidegate");
            let mut copy = Command::new("cp");
            copy.arg(command.as_std().get_program()).arg(&program);
            assert!(copy.status().await.unwrap().success());
            command = own_path(&program);
            chown(site.dir(), Some(NOBODY), Some(NOBODY)).unwrap();
            for entry in std::fs::read_dir(site.dir()).unwrap() {
                chown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
            }
            command.uid(NOBODY).gid(NOBODY);
        }
        command.arg(config);
        Process::listening(command).await
    }
}

/// The sidecar under another path.
fn own_path(program: &PathBuf) -> Command {
    let model = tidegate(["run", "--config"]);
    let mut command = Command::new(program);
    command
        .args(model.as_std().get_args())
        .env_clear()
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    command
}

impl Store for File {
    fn shows(&self) -> (&'static str, Kind) {
        match self {
            File::Removed
            | File::FolderRemoved
            | File::DanglingLink
            | File::EmptyFolder
            | File::KeyAbsent => ("missing", Kind::Absent),
            File::Empty | File::Word | File::Number | File::List | File::NotText | File::TwoMegabytes => {
                ("malformed", Kind::Malformed)
            }
            File::NoLeaveToRead => ("denied", Kind::NoHelp),
            File::ADevice | File::Hangs => ("unavailable", Kind::NoHelp),
        }
    }

    fn is_model(&self) -> bool {
        matches!(
            self,
            File::Removed | File::KeyAbsent | File::Word | File::NoLeaveToRead | File::ADevice
        )
    }

    fn needs_a_process(&self) -> bool {
        matches!(self, File::NoLeaveToRead)
    }

    fn provider(&self, _: &Site) -> String {
        "file = { path = \"{dir}/mounted/flag\" }".into()
    }

    fn patience(&self) -> &'static str {
        match self {
            File::Hangs => "500ms",
            _ => "5s",
        }
    }

    fn prepare(&self, site: &Site) {
        std::fs::create_dir(File::folder(site)).unwrap();
    }

    fn put(&self, site: &Site, paused: bool, text: &Value) {
        let mut flag = text.clone();
        flag["IsPaused"] = paused.into();
        File::write(site, format!("{flag}\n").as_bytes());
    }

    async fn spoil(&self, site: &Site) {
        match self {
            File::Removed => File::replace_by(site, |_| {}),
            File::FolderRemoved => std::fs::rename(File::folder(site), site.path("elsewhere")).unwrap(),
            File::DanglingLink => File::replace_by(site, |path| symlink("/nowhere/flag", path).unwrap()),
            File::EmptyFolder => File::replace_by(site, |path| std::fs::create_dir(path).unwrap()),
            File::KeyAbsent => File::write(site, b"{\"Other\": true}"),
            File::Empty => File::write(site, b""),
            File::Word => File::write(site, b"yes\n"),
            File::Number => File::write(site, b"1\n"),
            File::List => File::write(site, b"[true]\n"),
            File::NotText => File::write(site, &[0xff, 0xfe, 0]),
            File::TwoMegabytes => File::write(site, format!("true{}", " ".repeat(2 << 20)).as_bytes()),
            File::NoLeaveToRead => File::mode(site, 0o000),
            File::ADevice => File::replace_by(site, |path| symlink("/dev/zero", path).unwrap()),
            File::Hangs => File::replace_by(site, |path| {
                // Opening one to read waits for somebody who writes, as a network file system waits for its server.
                let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            }),
        }
    }

    async fn mend(&self, site: &Site) -> bool {
        match self {
            File::FolderRemoved => {
                std::fs::rename(site.path("elsewhere"), File::folder(site)).unwrap();
                return true;
            }
            File::NoLeaveToRead => {
                File::mode(site, 0o600);
                return true;
            }
            File::Hangs => {
                // Whoever waits for a writer gets one, and finds the end.
                let path = File::path(site);
                let opened =
                    tokio::task::spawn_blocking(move || std::fs::OpenOptions::new().write(true).open(path));
                drop(
                    tokio::time::timeout(Duration::from_secs(30), opened)
                        .await
                        .unwrap()
                        .unwrap()
                        .unwrap(),
                );
            }
            _ => {}
        }
        false
    }

    async fn start(&self, site: &Site) -> Sidecar {
        match self {
            _ if self.needs_a_process() => {
                let (process, client) = File::as_somebody_without_rights(site).await;
                Sidecar::Process(process, client)
            }
            _ => Sidecar::Here(Running::start(site).await),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_trouble_with_a_file_ever_resumes_anything_and_only_the_option_that_is_meant_pauses() {
    Box::pin(all_cells(File::ALL)).await;
}
