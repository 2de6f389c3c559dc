//! Something that goes on writing a file while it is read.
use crate::rows::Rows;
use anyhow::Result;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Between two writes.
const TICK: Duration = Duration::from_millis(5);

/// Appends rows to a file, a few with each tick and wherever in a line that ends, but not beyond what is allowed so far.
#[derive(Debug)]
pub struct Appender {
    allowed: watch::Sender<usize>,
    task: JoinHandle<Result<()>>,
}

impl Appender {
    /// Makes the file, empty, and starts. `ticks` is in how many pieces the whole is written if nothing stands in the way.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn start(path: &Path, rows: Arc<Rows>, ticks: usize) -> Result<Appender> {
        let mut file = OpenOptions::new().create_new(true).append(true).open(path)?;
        let (allowed, mut most) = watch::channel(0);
        let piece = rows.text().len() / ticks.max(1) + 1;
        let task = tokio::spawn(async move {
            let mut done = 0;
            let mut ticks = tokio::time::interval(TICK);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while done < rows.text().len() {
                ticks.tick().await;
                let Ok(most) = most.wait_for(|most| *most > done).await.map(|most| *most) else {
                    // Nobody will allow more: the test has ended.
                    return Ok(());
                };
                let to = most.min(done + piece).min(rows.text().len());
                write(&mut file, &rows.text()[done..to])?;
                done = to;
            }
            Ok(())
        });
        Ok(Appender { allowed, task })
    }

    /// Allows the file to have so many bytes.
    pub fn allow(&self, bytes: usize) {
        self.allowed.send_modify(|allowed| *allowed = bytes.max(*allowed));
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// If a write failed.
    pub async fn finish(self) -> Result<()> {
        self.allow(usize::MAX);
        self.task.await?
    }
}

fn write(file: &mut File, bytes: &[u8]) -> Result<()> {
    // A few kilobytes into the page cache: shorter than handing it to another thread.
    Ok(file.write_all(bytes)?)
}
