//! Logs: to standard error, as text on a terminal and as JSON elsewhere.
use std::io::IsTerminal;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Logs from now on. `directives` are `tracing`'s (`info`, `tidegate_providers=trace`); a bad one is an error that
/// names it.
pub(crate) fn start(directives: &str) -> anyhow::Result<()> {
    let wanted = EnvFilter::builder()
        .parse(directives)
        .map_err(|e| anyhow::anyhow!("the log filter \"{directives}\" cannot be read: {e}"))?;
    let terminal = std::io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(colour);
    let layer = if terminal {
        lines.boxed()
    } else {
        lines.json().flatten_event(true).boxed()
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(wanted.and(filter_fn(harmless))))
        .try_init()?;
    Ok(())
}

/// What other libraries say below INFO may quote headers and bodies, and so tokens and secrets; the Vault client
/// does so even in its errors. No filter that an operator sets turns those on.
fn harmless(line: &Metadata<'_>) -> bool {
    let target = line.target();
    if target.starts_with("rustify") || target.starts_with("vaultrs") {
        return false;
    }
    target.starts_with("tidegate") || *line.level() <= Level::INFO
}
