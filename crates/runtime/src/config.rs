//! What a configuration says of a stream, and one place that builds it.
use crate::connectors::{AnySink, AnySource, FileSink, FileSource, StdinSource, StdoutSink};
use crate::dead_letter::DeadLetters;
use crate::event::Stage;
use crate::hold::Limits;
use crate::stages::{BadExpression, Count, Filter, Map};
use crate::stream::Pipeline;
use crate::supervisor::Stream;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use tidegate_gate::{Holds, Kind, NameTaken};
use tidegate_state::{StateDir, StateError};

/// `[[stream]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Its name, shared with the HTTP gates.
    pub name: String,
    /// Where its events come from.
    pub source: SourceConfig,
    /// What happens to them, in this order.
    #[serde(default, rename = "stage")]
    pub stages: Vec<StageConfig>,
    /// Where they go.
    pub sink: SinkConfig,
    /// Where those go that nobody can take. Unset: a file in `state_dir`; without that either, the first such
    /// event stops the stream as `failed`.
    #[serde(default)]
    pub dead_letter: Option<PathBuf>,
}

/// `[stream.source]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SourceConfig {
    /// Lines of standard input.
    Stdin(StdinSourceConfig),
    /// Lines of a file.
    File(FileSourceConfig),
}

/// `type = "stdin"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdinSourceConfig {
    /// The longest line in bytes; a longer one goes to the dead letter.
    #[serde(default = "max_line")]
    pub max_line: usize,
}

/// `type = "file"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSourceConfig {
    /// The file, read from its beginning or from where the last process stopped.
    pub path: PathBuf,
    /// Go on at the end, through rotations and truncations. Unset: the end of the file ends the stream.
    #[serde(default)]
    pub follow: bool,
    /// The longest line in bytes; a longer one goes to the dead letter.
    #[serde(default = "max_line")]
    pub max_line: usize,
}

/// `[[stream.stage]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StageConfig {
    /// Keeps the events for which a jq expression is true.
    Filter(JqStageConfig),
    /// Replaces each event by the outputs of a jq expression.
    Map(JqStageConfig),
    /// Replaces each event by the count of its key.
    Count(CountStageConfig),
}

/// `type = "filter"` and `type = "map"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JqStageConfig {
    /// The expression; it sees the event and nothing else.
    pub jq: String,
}

/// `type = "count"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountStageConfig {
    /// A jq expression whose first output is the key.
    pub by: String,
    /// An event with one key more goes to the dead letter.
    #[serde(default = "max_keys")]
    pub max_keys: usize,
}

fn max_keys() -> usize {
    100_000
}

/// `[stream.sink]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SinkConfig {
    /// Lines on standard output.
    Stdout(StdoutSinkConfig),
    /// Lines at the end of a file.
    File(FileSinkConfig),
}

/// `type = "stdout"`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdoutSinkConfig {}

/// `type = "file"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSinkConfig {
    /// The file to append to.
    pub path: PathBuf,
    /// Force each write to the disk before its events are acknowledged: then a power cut loses none either.
    #[serde(default)]
    pub fsync: bool,
}

fn max_line() -> usize {
    1 << 20
}

/// Why a stream could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Another stream or gate has its name.
    #[error(transparent)]
    NameTaken(#[from] NameTaken),
    /// One of its stages has an expression that is no good.
    #[error("stream \"{stream}\", stage {number}: {source}")]
    Stage {
        /// The stream.
        stream: String,
        /// Which of its stages, from 1.
        number: usize,
        /// What is wrong.
        source: BadExpression,
    },
    /// Its state has no place.
    #[error("stream \"{stream}\": {source}")]
    State {
        /// The stream.
        stream: String,
        /// What is wrong.
        source: StateError,
    },
}

/// Builds a stream and puts it on the board; nothing is opened and nothing runs yet.
///
/// # Errors
/// [`BuildError`]; the stream is then not on the board.
pub fn build(
    config: &StreamConfig,
    holds: &Arc<Holds>,
    state: Option<&StateDir>,
) -> Result<Stream, BuildError> {
    let place = |folder: &str, ending: &str| {
        state
            .map(|dir| dir.place(folder, &config.name, ending))
            .transpose()
            .map_err(|source| BuildError::State {
                stream: config.name.clone(),
                source,
            })
    };
    let source = match &config.source {
        SourceConfig::Stdin(c) => AnySource::Stdin(StdinSource::new(c.max_line)),
        SourceConfig::File(c) => {
            let ledger = place("offsets", "ledger")?;
            AnySource::File(Box::new(FileSource::new(&c.path, c.follow, c.max_line, ledger)))
        }
    };
    let sink = match &config.sink {
        SinkConfig::Stdout(StdoutSinkConfig {}) => AnySink::Stdout(StdoutSink::new()),
        SinkConfig::File(c) => {
            let ledger = place("sinks", "ledger")?;
            AnySink::File(Box::new(FileSink::new(&c.path, c.fsync, ledger)))
        }
    };
    let stages = stages(config)?;
    let dead_letters = match &config.dead_letter {
        Some(path) => DeadLetters::at(path),
        None => place("dead_letters", "jsonl")?.map_or_else(DeadLetters::none, DeadLetters::at),
    };
    let member = holds.register(config.name.as_str(), Kind::Stream)?;
    Ok(Stream::new(
        member,
        Pipeline {
            source,
            stages,
            sink,
            dead_letters,
            limits: Limits::default(),
        },
    ))
}

fn stages(config: &StreamConfig) -> Result<Vec<Box<dyn Stage>>, BuildError> {
    let one = |stage: &StageConfig| -> Result<Box<dyn Stage>, BadExpression> {
        Ok(match stage {
            StageConfig::Filter(c) => Box::new(Filter::new(&c.jq)?),
            StageConfig::Map(c) => Box::new(Map::new(&c.jq)?),
            StageConfig::Count(c) => Box::new(Count::new(&c.by, c.max_keys)?),
        })
    };
    let numbered = config.stages.iter().enumerate();
    numbered
        .map(|(at, stage)| {
            one(stage).map_err(|source| BuildError::Stage {
                stream: config.name.clone(),
                number: at + 1,
                source,
            })
        })
        .collect()
}
