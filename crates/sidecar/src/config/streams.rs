//! What streams demand of each other: one standard input, and a file for each sink.
use super::StreamEntry;
use super::problem::Report;
use super::read::read;
use super::tree::Path;
use std::path::{Component, PathBuf};
use tidegate_runtime::{SinkConfig, SourceConfig, StreamConfig};

/// Reads and checks every `[[stream]]`.
pub(super) fn streams(report: &mut Report<'_>, paths: Vec<Path>) -> Vec<(Path, Option<StreamEntry>)> {
    let mut taken = Taken::default();
    let mut streams = Vec::new();
    for path in paths {
        let config: Option<StreamConfig> = read(report, &path);
        if let Some(config) = &config {
            check(report, &path, config, &mut taken);
        }
        let entry = config.map(|config| StreamEntry {
            name: config.name.as_str().into(),
            config,
        });
        streams.push((path, entry));
    }
    streams
}

/// What only one stream can have.
#[derive(Default)]
struct Taken {
    stdin: Option<Path>,
    /// Files that are written, and by which key.
    written: Vec<(PathBuf, Path)>,
}

impl Taken {
    fn write(&mut self, report: &mut Report<'_>, at: Path, file: &std::path::Path) {
        let file = plain(file);
        match self.written.iter().find(|(taken, _)| *taken == file) {
            Some((_, other)) => {
                let (line, other) = (report.line(other), report.root().name(other));
                report.at(
                    &at,
                    format!("{other} (line {line}) writes that file already; each needs its own"),
                );
            }
            None => self.written.push((file, at)),
        }
    }
}

fn check(report: &mut Report<'_>, path: &Path, config: &StreamConfig, taken: &mut Taken) {
    let source = path.key("source");
    let (max_line, read) = match &config.source {
        SourceConfig::Stdin(stdin) => {
            match &taken.stdin {
                Some(other) => {
                    let line = report.line(other);
                    report.at(
                        &source.key("type"),
                        format!("the stream in line {line} reads standard input already, and there is one"),
                    );
                }
                None => taken.stdin = Some(source.key("type")),
            }
            (stdin.max_line, None)
        }
        SourceConfig::File(file) => (file.max_line, Some(plain(&file.path))),
    };
    if max_line == 0 {
        report.at(
            &source.key("max_line"),
            "expected 1 or more: with 0, every line is a dead letter",
        );
    }
    let mut written = Vec::new();
    match &config.sink {
        SinkConfig::Stdout(_) => {}
        SinkConfig::File(file) => written.push((path.key("sink").key("path"), &file.path)),
    }
    if let Some(file) = &config.dead_letter {
        written.push((path.key("dead_letter"), file));
    }
    for (at, file) in written {
        if Some(plain(file)) == read {
            report.at(
                &at,
                "this is the file that the stream reads: it would feed itself for ever",
            );
            continue;
        }
        taken.write(report, at, file);
    }
}

/// Without `.` and doubled slashes, so that two spellings of a path are one. Links are not followed: the files need not
/// be there yet.
fn plain(path: &std::path::Path) -> PathBuf {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .collect()
}
