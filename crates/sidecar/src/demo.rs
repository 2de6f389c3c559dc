//! Readings of this host, from `/proc`: real data for the demo, at no cost.
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fs;

/// What is read, in turn.
const SOURCES: [&str; 5] = ["loadavg", "stat", "meminfo", "vmstat", "uptime"];

/// Reads one of [`SOURCES`] at a time and numbers the readings, so that a gap or a repeat would show.
pub(crate) struct Host {
    next: u64,
}

impl Host {
    /// Fails where there is no `/proc`.
    pub(crate) fn new() -> Result<Host> {
        fs::read_to_string("/proc/loadavg").context(
            "the demo streams readings of this host from /proc, which cannot be read here; \
             it needs Linux. `tidegate run` does not",
        )?;
        Ok(Host { next: 0 })
    }

    /// The next reading, as one line of JSON.
    pub(crate) fn read(&mut self) -> Result<String> {
        let source = SOURCES[usize::try_from(self.next % SOURCES.len() as u64)?];
        let path = format!("/proc/{source}");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let mut reading = Map::new();
        reading.insert("n".into(), json!(self.next));
        reading.insert("at".into(), json!(jiff::Timestamp::now().to_string()));
        reading.insert("source".into(), json!(source));
        reading.insert("values".into(), values(source, &text));
        self.next += 1;
        Ok(Value::Object(reading).to_string())
    }
}

fn values(source: &str, text: &str) -> Value {
    let numbers =
        |line: &str| -> Vec<f64> { line.split_whitespace().filter_map(|w| w.parse().ok()).collect() };
    match source {
        "loadavg" | "uptime" => json!(numbers(text)),
        // The first line sums all processors: user, nice, system, idle, …, in ticks.
        "stat" => json!(numbers(text.lines().next().unwrap_or_default())),
        _ => {
            let fields = text.lines().take(4).filter_map(|line| {
                let mut words = line.split_whitespace();
                let name = words.next()?.trim_end_matches(':');
                let value: f64 = words.next()?.parse().ok()?;
                Some((name.to_owned(), json!(value)))
            });
            Value::Object(fields.collect())
        }
    }
}
