//! `tidegate run`: the sidecar.
use super::{complain, configured, signals::stop_on_signal};
use crate::app::{App, Ending, clock};
use crate::cli::{ConfigArgs, exit};
use crate::console::{self, Style};
use crate::service_manager;
use anyhow::Result;
use tidegate_admin::audit;
use tidegate_runtime::Outcome;
use tokio_util::sync::CancellationToken;

pub(super) async fn run(args: &ConfigArgs) -> Result<u8> {
    let config = match configured(args) {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    // Shells and service managers hand out 1,024, fewer than the connections that one listener takes.
    if let Err(error) = tidegate_http::raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open files stays as it is: raise it if connections are refused");
    }
    let stop = stop_on_signal()?;
    let app = match App::build(&config, clock()).await {
        Ok(app) => app,
        Err(error) => {
            complain(&format!("{error:#}"));
            return Ok(exit::CONFIG);
        }
    };
    tracing::info!(control = %app.control(), observe = %app.observe(), "listening");

    // Standard output belongs to the streams: a sink may write there.
    let told = CancellationToken::new();
    let telling = match Style::of_stderr() {
        style @ Style::Live { .. } => tokio::spawn(console::draw(
            app.holds().clone(),
            std::io::stderr(),
            style,
            told.clone(),
        )),
        Style::Plain => tokio::spawn(audit(
            app.holds().clone(),
            app.metrics().clone(),
            0,
            tokio::io::stderr(),
            told.clone(),
        )),
    };
    let timeouts = config.switches.iter().map(|s| s.config.timeout);
    let managing = tokio::spawn(service_manager::tell(
        app.holds().clone(),
        timeouts.max().unwrap_or_default(),
        stop.clone(),
        told.clone(),
    ));
    let ending = app.run(stop).await;
    told.cancel();
    // They end within a second of being told; a panic in one has been logged.
    let _ = tokio::join!(telling, managing);
    Ok(tell(&ending))
}

fn tell(ending: &Ending) -> u8 {
    for report in &ending.streams {
        let (stream, given_back, unreturned) = (&report.stream, report.given_back, report.unreturned);
        match &report.outcome {
            Outcome::Failed(error) => complain(&format!("stream \"{stream}\" had failed: {error}")),
            Outcome::CutShort => complain(&format!(
                "stream \"{stream}\": shutdown_grace was over before its last write was done; whether the sink has it \
                 is not known"
            )),
            Outcome::Ended | Outcome::Stopped => {}
        }
        if unreturned > 0 {
            complain(&format!(
                "stream \"{stream}\": {unreturned} events were read and not written, and the source cannot take them \
                 back"
            ));
        }
        tracing::info!(%stream, outcome = ?report.outcome, given_back, unreturned, "stopped");
    }
    if ending.unfinished() {
        exit::TEMPORARY
    } else {
        exit::OK
    }
}
