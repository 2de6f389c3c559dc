//! What streams demand of each other: one standard input, and a file for each sink.
use super::StreamEntry;
use super::problem::Report;
use super::raw::Listen;
use super::read::read;
use super::tree::Path;
use super::validate::{Ports, elements_in, found, is_raw_path, url};
use std::path::{Component, PathBuf};
use std::time::Duration;
use tidegate_runtime::{
    BadExpression, Count, Filter, Map, SinkConfig, SourceConfig, StageConfig, StreamConfig,
};

/// An attempt at a sink that takes longer keeps a stream `pausing` for as long.
pub(super) const LONGEST_ATTEMPT: Duration = Duration::from_secs(3600);

/// Reads and checks every `[[stream]]`.
pub(super) fn streams(
    report: &mut Report<'_>,
    paths: Vec<Path>,
    ports: &mut Ports,
) -> Vec<(Path, Option<StreamEntry>)> {
    let mut taken = Taken::default();
    let mut streams = Vec::new();
    for path in paths {
        let config: Option<StreamConfig> = read(report, &path);
        if let Some(config) = &config {
            check(report, &path, config, &mut taken, ports);
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

fn check(report: &mut Report<'_>, path: &Path, config: &StreamConfig, taken: &mut Taken, ports: &mut Ports) {
    let source = path.key("source");
    let mut read = None;
    let least_one = |report: &mut Report<'_>, key: &str, value: usize, why: &str| {
        if value == 0 {
            report.at(&source.key(key), format!("expected 1 or more: with 0, {why}"));
        }
    };
    const ALL_DEAD: &str = "every line is a dead letter";
    if let SourceConfig::Stdin(stdin) = &config.source {
        least_one(report, "max_line", stdin.max_line, ALL_DEAD);
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
    }
    if let SourceConfig::File(file) = &config.source {
        least_one(report, "max_line", file.max_line, ALL_DEAD);
        read = Some(plain(&file.path));
    }
    if let SourceConfig::Http(http) = &config.source {
        least_one(report, "max_body", http.max_body, "every event is refused");
        least_one(report, "max_waiting", http.max_waiting, "every event is refused");
        let at = source.key("listen");
        match http.listen.parse() {
            Ok(address) => ports.take(report, at, &address),
            Err(_) => {
                let found = found(report, &at);
                report.at(&at, format!("expected {}, found {found}", Listen::EXPECTED));
            }
        }
        if !is_raw_path(&http.path) {
            let at = source.key("path");
            let found = found(report, &at);
            report.at(&at, format!("expected a path such as \"/events\", found {found}"));
        }
    }
    super::brokers::source(report, &source, &config.source);
    let stages = elements_in(report, path, "stage");
    // One that could not be read is reported and missing in the list, and the places would not fit.
    if stages.len() == config.stages.len() {
        for (at, stage) in stages.iter().zip(&config.stages) {
            stage_of(report, at, stage);
        }
    }
    let sink = path.key("sink");
    let mut written = Vec::new();
    if let SinkConfig::File(file) = &config.sink {
        written.push((sink.key("path"), &file.path));
    }
    if let SinkConfig::Http(http) = &config.sink {
        url(
            report,
            &sink.key("url"),
            &http.url,
            "http://127.0.0.1:8080/events",
            true,
        );
        if http.batch == 0 {
            report.at(&sink.key("batch"), "expected 1 or more");
        }
        if http.timeout.is_zero() || http.timeout > LONGEST_ATTEMPT {
            report.at(
                &sink.key("timeout"),
                "expected more than 0s and at most 1h: a pause is proven once the attempt under way has ended",
            );
        }
    }
    super::brokers::sink(report, &sink, &config.sink);
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

fn stage_of(report: &mut Report<'_>, path: &Path, stage: &StageConfig) {
    let (key, refused) = match stage {
        StageConfig::Filter(c) => ("jq", Filter::new(&c.jq).err()),
        StageConfig::Map(c) => ("jq", Map::new(&c.jq).err()),
        StageConfig::Count(c) => {
            if c.max_keys == 0 {
                report.at(
                    &path.key("max_keys"),
                    "expected 1 or more: with 0, every event is a dead letter",
                );
            }
            ("by", Count::new(&c.by, c.max_keys).err())
        }
    };
    if let Some(BadExpression { why, .. }) = refused {
        report.quoting(
            &path.key(key),
            format!("expected a jq expression, and this one is no good: {why}"),
        );
    }
}

/// Without `.` and doubled slashes, so that two spellings of a path are one. Links are not followed: the files need not
/// be there yet.
fn plain(path: &std::path::Path) -> PathBuf {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .collect()
}
