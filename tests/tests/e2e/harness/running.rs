//! The sidecar in this process: what `tidegate run` builds, on free ports.
use super::{Client, Site, eventually, within_patience};
use std::sync::Arc;
use tidegate::app::{App, Ending, clock};
use tidegate::config;
use tidegate_gate::{Clock, Holds};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Dropping it asks it to stop.
pub(crate) struct Running {
    pub(crate) client: Client,
    pub(crate) holds: Arc<Holds>,
    stop: DropGuard,
    task: JoinHandle<Ending>,
}

impl Running {
    /// Starts over the site's configuration.
    pub(crate) async fn start(site: &Site) -> Running {
        Running::on(site, clock()).await
    }

    /// The same, on another clock.
    pub(crate) async fn on(site: &Site, clock: Clock) -> Running {
        let config =
            config::load(&site.config_file()).unwrap_or_else(|e| panic!("{e}\n--- in\n{}", site.config()));
        // A child that another test is just starting has a copy of the last process's lock from its fork to its exec.
        let app = eventually("state_dir is free", async || {
            match App::build(&config, clock.clone()).await {
                Err(error) if format!("{error:#}").contains("in use by another process") => None,
                built => Some(built.unwrap()),
            }
        })
        .await;
        let client = Client::new(&app.control().to_string(), &app.observe().to_string());
        let holds = app.holds().clone();
        let stop = CancellationToken::new();
        let task = tokio::spawn(app.run(stop.clone()));
        Running {
            client,
            holds,
            stop: stop.drop_guard(),
            task,
        }
    }

    /// Stops it as SIGTERM does, and says how it ended.
    pub(crate) async fn stop(self) -> Ending {
        drop(self.stop);
        within_patience("the sidecar stops", self.task).await.unwrap()
    }
}
