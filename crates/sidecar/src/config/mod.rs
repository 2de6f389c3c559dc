//! The configuration: read raw, validated once, everything wrong reported at once.
//!
//! Two tiers. `raw` holds the keys as they are written, checked for kind only; [`Config`] holds ready values that have
//! been checked against each other, so that nothing downstream asks again.
mod brokers;
mod fault;
mod files;
mod problem;
mod raw;
mod read;
mod streams;
mod tree;
mod validate;

pub use problem::{ConfigErrors, Problem};
pub use tidegate_admin::{Right, TokenSpec as Token};
pub use tidegate_http::{GateConfig as GateEntry, OnHold, OnHoldUpgraded};
pub use tree::Lookup;

pub(crate) use problem::suggestion;
use problem::{Report, place};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidegate_gate::Name;
use tidegate_http::Address;
use tidegate_providers::SwitchConfig;
use tidegate_runtime::StreamConfig;
use toml::de::DeTable;

/// Nobody writes a configuration larger than this; the wrong file given by mistake may be.
const LARGEST_FILE: u64 = 1 << 20;

/// A configuration in which everything fits together.
#[derive(Clone, Debug)]
pub struct Config {
    /// The longest that a stop may take.
    pub shutdown_grace: Duration,
    /// How long HTTP gates serve on, already reported as not ready, when the process is told to stop; less than
    /// `shutdown_grace`.
    pub drain_delay: Duration,
    /// Where a restart finds what it must not forget; without it nothing is written.
    pub state_dir: Option<PathBuf>,
    /// The file that tells other processes how things stand; without it none is written.
    pub state_file: Option<StateFile>,
    /// The listener that may change something.
    pub control: Control,
    /// The listener that only shows.
    pub observe: Observe,
    /// In the order of the file.
    pub switches: Vec<SwitchEntry>,
    /// In the order of the file; names are unique among streams and gates.
    pub streams: Vec<StreamEntry>,
    /// In the order of the file; names are unique among streams and gates.
    pub gates: Vec<GateEntry>,
}

impl Config {
    /// The names of all streams, gates and what is only published: what `*` stands for.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let streams = self.streams.iter().map(|s| &*s.name);
        let published = self.state_file.iter().flat_map(|f| &f.publish).map(|n| &**n);
        streams
            .chain(self.gates.iter().map(|g| g.name.as_str()))
            .chain(published)
    }
}

/// `[state_file]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFile {
    /// Replaced each second, and with every change.
    pub path: PathBuf,
    /// Names that are neither hosted nor behind a gate, and can be held all the same: whoever reads the file keeps to it.
    pub publish: Vec<Name>,
}

/// `[control]`: pause, resume, override, drain, status, watch.
#[derive(Clone, Debug)]
pub struct Control {
    /// Where to listen. Not loopback only with `tls` and at least one token.
    pub listen: Address,
    /// Empty, or `/` and segments without a `/` at the end.
    pub base_path: String,
    /// Certificate and key.
    pub tls: Option<TlsFiles>,
    /// Who may do what. Where there is any, every call needs one.
    pub tokens: Vec<Token>,
    /// Host names, besides those of the certificate, under which requests are taken.
    pub hosts: Vec<String>,
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

/// `[observe]`: health, readiness, metrics, redacted status.
#[derive(Clone, Debug)]
pub struct Observe {
    /// Where to listen.
    pub listen: Address,
    /// Whether `/readyz` stays 200 while streams are held.
    pub ready_while_paused: bool,
}

/// `[[switch]]`.
#[derive(Clone, Debug)]
pub struct SwitchEntry {
    /// What is written about it.
    pub config: SwitchConfig,
    /// The streams and gates that it holds, `*` resolved; at least one.
    pub streams: Vec<Name>,
}

/// `[[stream]]`.
#[derive(Clone, Debug)]
pub struct StreamEntry {
    /// Its name.
    pub name: Name,
    /// Source, stages and sink.
    pub config: StreamConfig,
}

/// Reads and validates a file, and looks at what it refers to: token files, certificates, CA files, and the environment
/// (`${NAME}` and tokens kept there). Blocks.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let file = path.display().to_string();
    let unreadable = |what: String| ConfigErrors {
        problems: vec![Problem::of_file(&file, what)],
    };
    let bytes = read_file(path).map_err(|e| unreadable(format!("cannot be read: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let (row, column) = place(
            &String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]),
            usize::MAX,
        );
        unreadable(format!("is not UTF-8 from line {row}, column {column} on"))
    })?;
    parse_and(&text, &file, &|name| std::env::var(name), files::check)
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let file = std::fs::File::open(path)?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(std::io::Error::other(
            "it is larger than 1 MiB; is it the right file?",
        ));
    }
    Ok(bytes)
}

/// Validates a text. `file` is what problems call it; `env` answers for `${NAME}`. Touches no file.
pub fn parse(text: &str, file: &str, env: &Lookup<'_>) -> Result<Config, ConfigErrors> {
    parse_and(text, file, env, |_, _| {})
}

fn parse_and(
    text: &str,
    file: &str,
    env: &Lookup<'_>,
    look_outside: impl FnOnce(&validate::Sections, &mut Report<'_>),
) -> Result<Config, ConfigErrors> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        // What the parser recovered would be complained of a second time, in the wrong words.
        let problems = syntax.iter().map(|error| Problem {
            file: file.to_owned(),
            place: error.span().map(|span| place(text, span.start)),
            key: String::new(),
            what: format!("this is not TOML: {}", error.message()),
        });
        return Err(ConfigErrors {
            problems: problems.collect(),
        });
    }
    let mut wrong = Vec::new();
    let root = tree::build(table.get_ref(), env, &mut wrong);
    let mut report = Report::new(file, text, &root);
    for (path, what) in wrong {
        report.at(&path, what);
        report.settle(&path);
    }
    let sections = validate::sections(&mut report);
    look_outside(&sections, &mut report);
    match sections.into_config() {
        Some(config) if report.is_empty() => Ok(config),
        _ => Err(report.into_errors()),
    }
}
