//! Somebody who watches, and when he was told.
use anyhow::{Context, Result, bail, ensure};
use reqwest::Response;
use serde_json::Value;
use std::time::Instant;
use tokio::sync::mpsc;

/// Reads `GET /watch` and says when a stream's state changed.
#[derive(Debug)]
pub struct Watcher {
    told: mpsc::UnboundedReceiver<(Instant, String)>,
}

impl Watcher {
    /// Watches one stream through the control listener at `control`.
    ///
    /// # Errors
    /// If it cannot be watched.
    pub async fn of(control: &str, stream: &str) -> Result<Watcher> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            // Plain HTTP: the system's CAs need not be read.
            .tls_certs_only([])
            .build()?;
        let answer = client.get(format!("http://{control}/watch")).send().await?;
        ensure!(answer.status().is_success(), "GET /watch: {}", answer.status());
        let (tell, told) = mpsc::unbounded_channel();
        let stream = stream.to_owned();
        tokio::spawn(async move {
            // It ends with the process that is watched, or with the watcher.
            let _ = read(answer, &stream, &tell).await;
        });
        Ok(Watcher { told })
    }

    /// When the next event arrived that shows the stream in that state.
    ///
    /// # Errors
    /// If the watch ended.
    pub async fn told(&mut self, state: &str) -> Result<Instant> {
        while let Some((at, told)) = self.told.recv().await {
            if told == state {
                return Ok(at);
            }
        }
        bail!("the watch has ended")
    }
}

async fn read(
    mut answer: Response,
    stream: &str,
    tell: &mpsc::UnboundedSender<(Instant, String)>,
) -> Result<()> {
    let mut text = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        let at = Instant::now();
        text.extend_from_slice(&piece);
        while let Some(end) = text.windows(2).position(|w| w == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            let Some(data) = std::str::from_utf8(&event)?
                .lines()
                .find_map(|l| l.strip_prefix("data:"))
            else {
                continue;
            };
            let data: Value = serde_json::from_str(data.trim())?;
            let streams = data["streams"].as_array().context("streams")?;
            let Some(found) = streams.iter().find(|s| s["name"] == *stream) else {
                continue;
            };
            tell.send((at, found["state"].as_str().unwrap_or_default().to_owned()))?;
        }
    }
    Ok(())
}
