//! The command line: what can be asked, and what the answers mean to scripts.
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use std::ffi::OsString;
#[cfg(feature = "devstore")]
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

/// Exit codes, those of `sysexits.h` where it has one.
pub mod exit {
    /// Done, as asked.
    pub const OK: u8 = 0;
    /// Answered, but not as asked: not proven in time, still held, nothing to drain.
    pub const NOT_YET: u8 = 1;
    /// The command line cannot be used, or names a stream that there is not.
    pub const USAGE: u8 = 64;
    /// A switch's secret is missing or malformed.
    pub const DATA: u8 = 65;
    /// A store, or tidegate itself, cannot be reached.
    pub const UNAVAILABLE: u8 = 69;
    /// Something inside went wrong that should not have.
    pub const SOFTWARE: u8 = 70;
    /// Something was read from standard input and not written.
    pub const TEMPORARY: u8 = 75;
    /// A store, or tidegate itself, refuses.
    pub const DENIED: u8 = 77;
    /// The configuration cannot be used.
    pub const CONFIG: u8 = 78;
}

const EXIT_CODES: &str = "\
Exit codes:
  0   done, as asked
  1   answered, but not as asked: not proven in time, still held, nothing to drain, found by a drill
  64  bad use, or no such stream
  65  check: a switch's secret is missing or malformed
  69  a store, or tidegate, cannot be reached
  75  run: something was read from standard input and not written
  77  a store, or tidegate, refuses
  78  bad configuration";

/// A pause switch for data streams, kept in the secret store you already run.
#[derive(Clone, Debug, Parser)]
#[command(name = "tidegate", version = version(), after_help = EXIT_CODES, max_term_width = 100)]
#[command(
    subcommand_required = true,
    arg_required_else_help = false,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Where a running tidegate's control listener is: a URL, with its base_path if it has one, or unix:/path
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TIDEGATE_ADMIN",
        default_value = "http://127.0.0.1:9470"
    )]
    #[arg(hide_env_values = true)]
    pub admin: String,
    /// The file that holds the token for it
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Trust what this PEM file holds, instead of the system's CAs, when the URL is https
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Log more: -v for debug, -vv for trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to log, such as info or tidegate_providers=trace
    #[arg(long, global = true, value_name = "FILTER", conflicts_with = "verbose")]
    pub log: Option<String>,
}

impl Global {
    /// The filter for the log; `quiet` is what a command logs that nobody asked to log.
    pub fn log_filter(&self, quiet: &str) -> String {
        match (&self.log, self.verbose) {
            (Some(filter), _) => filter.clone(),
            (None, 0) => quiet.to_owned(),
            (None, 1) => "debug".to_owned(),
            (None, _) => "trace".to_owned(),
        }
    }
}

/// A command.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    #[cfg(feature = "devstore")]
    /// Try it: an embedded dev secret store and a sample stream
    Demo(DemoArgs),
    /// Run the sidecar
    Run(ConfigArgs),
    /// Say everything that is wrong with a configuration, and read every switch once
    Check(ConfigArgs),
    #[cfg(feature = "devstore")]
    /// Run the embedded dev secret store alone
    Devstore(DevstoreArgs),
    /// Print what a shell needs to complete these commands
    #[command(after_help = COMPLETIONS_HELP)]
    Completions(CompletionsArgs),
    /// A command for a running tidegate.
    #[command(flatten)]
    Client(ClientCommand),
}

/// A command for a running tidegate.
#[derive(Clone, Debug, Subcommand)]
pub enum ClientCommand {
    /// Hold streams, and wait until it is proven that nothing moves
    Pause(PauseArgs),
    /// Read the switches, release what the API holds, and say who still holds
    Resume(StreamArgs),
    /// Set a switch's hold aside, until its secret has a new version: for the day the store is lost
    Override(OverrideArgs),
    /// Show streams and switches
    Status(StatusArgs),
    /// Show every change, a line each
    Watch(WatchArgs),
    /// Show what happened: transitions, holds, readings that changed, drills
    History(HistoryArgs),
    /// Try whether a flip would pause a stream, disturbing nothing, and say what stands in the way
    Drill(DrillArgs),
    /// Wait until nothing is in flight in what is held
    Drain(DrainArgs),
    /// Wait until streams run, or are paused
    Wait(WaitArgs),
}

const COMPLETIONS_HELP: &str = "\
Where they go:
  bash        source <(tidegate completions bash)
  zsh         tidegate completions zsh > \"${fpath[1]}/_tidegate\"
  fish        tidegate completions fish > ~/.config/fish/completions/tidegate.fish";

/// `completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

impl CompletionsArgs {
    /// The script.
    pub fn script(&self) -> Vec<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "tidegate", &mut script);
        script
    }
}

/// `demo`.
#[cfg(feature = "devstore")]
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Where the embedded secret store listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8200")]
    pub store_listen: SocketAddr,
    /// Where the control API listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9470")]
    pub control_listen: SocketAddr,
    /// Where probes and metrics listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9471")]
    pub observe_listen: SocketAddr,
}

/// `devstore`.
#[cfg(feature = "devstore")]
#[derive(Clone, Debug, Args)]
pub struct DevstoreArgs {
    /// Where its Vault side listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8200")]
    pub listen: SocketAddr,
    /// Where its Key Vault side listens, with TLS
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8243")]
    pub key_vault_listen: SocketAddr,
}

/// Where the configuration is.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: PathBuf,
}

/// Which streams.
#[derive(Clone, Debug, Args)]
pub struct StreamArgs {
    /// Streams and gates, by name; none means all
    #[arg(value_name = "STREAM")]
    pub streams: Vec<String>,
}

/// `pause`.
#[derive(Clone, Debug, Args)]
pub struct PauseArgs {
    /// Which streams.
    #[command(flatten)]
    pub on: StreamArgs,
    /// Why, for everybody who looks at it
    #[arg(long)]
    pub reason: Option<String>,
    /// Who asks
    #[arg(long, env = "USER", hide_env_values = true)]
    pub by: Option<String>,
    /// When the hold ends by itself, such as 2026-11-22T18:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "for_", value_parser = time)]
    pub until: Option<Timestamp>,
    /// How long until the hold ends by itself, such as 30m
    #[arg(long = "for", id = "for_", value_name = "DURATION", value_parser = duration)]
    pub for_: Option<Duration>,
    /// Place the hold and do not wait for the proof
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for the proof; the hold stands all the same
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, conflicts_with = "no_wait")]
    pub timeout: Duration,
}

/// `override`.
#[derive(Clone, Debug, Args)]
pub struct OverrideArgs {
    /// Streams and gates, by name
    #[arg(value_name = "STREAM", required = true)]
    pub streams: Vec<String>,
    /// The switch whose hold is set aside
    #[arg(long, value_name = "NAME")]
    pub switch: String,
    /// Why, for the audit
    #[arg(long)]
    pub reason: String,
}

/// `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// The answer as it comes, as JSON
    #[arg(long)]
    pub json: bool,
    /// Ask several processes, and say how many are paused
    #[arg(long, value_name = "URL", num_args = 1..)]
    pub fleet: Vec<String>,
}

/// `watch`.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// Every event as it comes, as a line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `history`.
#[derive(Clone, Debug, Args)]
pub struct HistoryArgs {
    /// From when on: a time such as 2026-11-22T18:00:00Z, or how long ago, such as 1h
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub since: Option<String>,
    /// How many at most, the newest
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub limit: u16,
    /// The answer as it comes, as JSON
    #[arg(long)]
    pub json: bool,
}

/// `drill`.
#[derive(Clone, Debug, Args)]
pub struct DrillArgs {
    /// The stream or gate
    #[arg(long, value_name = "STREAM")]
    pub stream: String,
    /// Really pause it for this long, such as 3s; it ends by itself
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub live: Option<Duration>,
    /// The pause that is planned: leases have to outlive it [default: 30m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub pause: Option<Duration>,
    /// The answer as it comes, as JSON
    #[arg(long)]
    pub json: bool,
}

/// `drain`.
#[derive(Clone, Debug, Args)]
pub struct DrainArgs {
    /// How long to wait; at most an hour
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    /// Hold everything until the process ends, then wait: for preStop
    #[arg(long)]
    pub close: bool,
}

/// `wait`.
#[derive(Clone, Debug, Args)]
pub struct WaitArgs {
    /// Which streams.
    #[command(flatten)]
    pub on: StreamArgs,
    /// What to wait for
    #[arg(long, value_name = "STATE")]
    pub until: Until,
    /// How long to wait; for ever if it is not given
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// What `wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Until {
    /// Events move.
    Running,
    /// It is proven that nothing moves.
    Paused,
}

/// What to print instead of running a command, and how to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instead {
    /// The text; coloured if asked.
    pub text: String,
    /// To standard error.
    pub to_stderr: bool,
    /// The exit code.
    pub code: u8,
}

/// Reads a command line, the program's name first. Help and the version are asked for and end with 0; bad use ends
/// with [`exit::USAGE`], not with the 2 that the parser would use.
pub fn read<I, T>(line: I, colour: bool) -> Result<Cli, Instead>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    Cli::try_parse_from(line).map_err(|error| {
        let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        let styled = error.render();
        Instead {
            text: if colour {
                styled.ansi().to_string()
            } else {
                styled.to_string()
            },
            to_stderr: !asked,
            code: if asked { exit::OK } else { exit::USAGE },
        }
    })
}

/// The version, and the commit where the build was told one (`TIDEGATE_COMMIT`): no build script asks git, so that a
/// source archive builds too.
fn version() -> &'static str {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    static WITH_COMMIT: LazyLock<String> =
        LazyLock::new(
            || match option_env!("TIDEGATE_COMMIT").filter(|commit| !commit.is_empty()) {
                Some(commit) => format!("{VERSION} ({commit})"),
                None => VERSION.to_owned(),
            },
        );
    &WITH_COMMIT
}

fn duration(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(366 * 24 * 3600);
    match humantime::parse_duration(text.trim()) {
        Ok(duration) if duration <= MOST => Ok(duration),
        Ok(_) => Err("expected at most 366 days".into()),
        Err(_) => Err("expected a duration with its unit, such as 250ms, 30s or \"1h 30m\"".into()),
    }
}

/// A point in time, or a duration before now, as the control API takes it.
fn when(text: &str) -> Result<String, String> {
    let text = text.trim();
    match (text.parse::<Timestamp>(), humantime::parse_duration(text)) {
        (Err(_), Err(_)) => {
            Err("expected a time, such as 2026-11-22T18:00:00Z, or a duration, such as 1h".into())
        }
        _ => Ok(text.to_owned()),
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.trim()
        .parse()
        .map_err(|_| "expected a time with its zone, such as 2026-11-22T18:00:00Z".into())
}
