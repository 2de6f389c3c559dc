//! One JSON line for everything that happened, in order.
use crate::Metrics;
use crate::status::{Event, time};
use serde::Serialize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tidegate_gate::{Holds, Record};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Says that lines are missing here, and how many.
#[derive(Serialize)]
struct Lost {
    time: String,
    kind: &'static str,
    count: u64,
}

/// Writes every record after `seq` to `writer`, until `stop`; then what is left, for at most a second.
///
/// A pause never waits for it: the journal keeps 4,096 records, and a writer that is slower than that loses the
/// oldest. Lost lines are counted in `tidegate_audit_lines_lost_total` and told of in a line of kind `lost`, as
/// soon as one can be written.
pub async fn audit<W>(holds: Arc<Holds>, metrics: Metrics, seq: u64, writer: W, stop: CancellationToken)
where
    W: AsyncWrite + Unpin,
{
    const LAST_CALL: Duration = Duration::from_secs(1);
    let mut end = holds.journal_end();
    let mut audit = Audit {
        holds,
        metrics,
        writer,
        seq,
        untold: 0,
        torn: false,
        complained: None,
    };
    while !stop.is_cancelled() {
        end.mark_unchanged();
        {
            let mut work = pin!(audit.catch_up());
            tokio::select! {
                biased;
                () = &mut work => {}
                // Not dropped at once: half a line would be left behind. Yet a disk that does not answer must not
                // keep the process from ending.
                () = stop.cancelled() => {
                    if tokio::time::timeout(LAST_CALL, work).await.is_err() {
                        tracing::error!("the audit writer does not answer: the last audit lines are lost");
                        return;
                    }
                }
            }
        }
        tokio::select! {
            changed = end.changed() => if changed.is_err() { return },
            () = stop.cancelled() => {}
        }
    }
    let _ = tokio::time::timeout(LAST_CALL, audit.catch_up()).await;
}

struct Audit<W> {
    holds: Arc<Holds>,
    metrics: Metrics,
    writer: W,
    seq: u64,
    /// Lost and not yet told of.
    untold: u64,
    /// The last write failed, perhaps in the middle of a line.
    torn: bool,
    complained: Option<Instant>,
}

impl<W: AsyncWrite + Unpin> Audit<W> {
    async fn catch_up(&mut self) {
        let records = self.holds.journal_after(self.seq);
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return;
        };
        let last = last.seq;
        let gap = first.seq - self.seq - 1;
        self.lose(gap);
        let written = self.write(&records).await;
        self.seq = last;
        self.torn = written.is_err();
        match written {
            Ok(()) => self.untold = 0,
            Err(error) => {
                self.lose(records.len() as u64);
                if self
                    .complained
                    .is_none_or(|at| at.elapsed() >= Duration::from_secs(60))
                {
                    self.complained = Some(Instant::now());
                    tracing::error!(%error, lost = self.untold, "audit lines cannot be written; they are counted");
                }
            }
        }
    }

    fn lose(&mut self, count: u64) {
        self.untold += count;
        self.metrics.audit_lines_lost(count);
    }

    async fn write(&mut self, records: &[Arc<Record>]) -> std::io::Result<()> {
        let mut lines = Vec::new();
        if self.torn {
            lines.push(b'\n');
        }
        if self.untold > 0 {
            let lost = Lost {
                time: time(self.holds.now().wall),
                kind: "lost",
                count: self.untold,
            };
            line(&mut lines, &lost)?;
        }
        for record in records {
            line(&mut lines, &Event::of(record))?;
        }
        self.writer.write_all(&lines).await?;
        self.writer.flush().await
    }
}

fn line(lines: &mut Vec<u8>, value: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *lines, value)?;
    lines.push(b'\n');
    Ok(())
}
