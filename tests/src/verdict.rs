//! The one check over what arrived: every row, once, in order, none while paused; and what a kill may repeat.
use crate::rows::Rows;
use std::fmt;

/// The most events that one attempt at a file carries: what a kill may repeat.
pub const BATCH: usize = 1024;

/// One pause, as it was seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// The length of the sink when `/status` said `paused`.
    pub at_paused: u64,
    /// The same just before the flag was written that ends it.
    pub before_resume: u64,
}

/// One kill -9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The whole lines that the sink had afterwards, in bytes.
    pub whole: u64,
    /// It was proven paused, so nothing was in flight.
    pub paused: bool,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The sink grew between `paused` and the resume.
    Moved {
        /// Which pause, counted from 0.
        pause: usize,
        /// By how many bytes.
        bytes: u64,
    },
    /// A row is missing where it should be.
    Missing {
        /// Its number.
        row: usize,
        /// The number of the row that stands there; none at the end.
        found: Option<usize>,
    },
    /// A row came again though no kill explains it.
    Again {
        /// Its number.
        row: usize,
    },
    /// A kill brought more rows again than a batch has.
    TooManyAgain {
        /// The first of them.
        row: usize,
        /// How many.
        rows: usize,
    },
    /// A line that no row of the source is.
    Foreign {
        /// Which line of the sink, counted from 0.
        line: usize,
    },
    /// The last line has no end.
    Torn,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Moved { pause, bytes } => {
                write!(f, "{bytes} bytes arrived in pause {pause}, after it was proven")
            }
            Violation::Missing {
                row,
                found: Some(found),
            } => {
                write!(f, "row {row} is missing: row {found} stands in its place")
            }
            Violation::Missing { row, found: None } => write!(f, "row {row} and all after it are missing"),
            Violation::Again { row } => write!(f, "row {row} came again, and no kill explains it"),
            Violation::TooManyAgain { row, rows } => {
                write!(
                    f,
                    "{rows} rows from {row} on came again after a kill: more than a batch"
                )
            }
            Violation::Foreign { line } => write!(f, "line {line} of the sink is none of the source"),
            Violation::Torn => f.write_str("the sink ends in half a line"),
        }
    }
}

impl std::error::Error for Violation {}

/// What kills brought again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repeated {
    /// How many rows, for each kill that brought any.
    pub rows: Vec<usize>,
}

/// Judges what arrived.
///
/// # Errors
/// The first [`Violation`].
pub fn judge(rows: &Rows, sink: &[u8], pauses: &[Pause], kills: &[Kill]) -> Result<Repeated, Violation> {
    for (pause, seen) in pauses.iter().enumerate() {
        if seen.at_paused != seen.before_resume {
            let bytes = seen.before_resume.abs_diff(seen.at_paused);
            return Err(Violation::Moved { pause, bytes });
        }
    }
    if sink.last().is_some_and(|b| *b != b'\n') {
        return Err(Violation::Torn);
    }
    let numbers = rows.numbers();
    let mut repeated = Repeated::default();
    let (mut next, mut at) = (0, 0_u64);
    for (line, text) in sink.split_inclusive(|b| *b == b'\n').enumerate() {
        let Some(&found) = numbers.get(&text[..text.len() - 1]) else {
            return Err(Violation::Foreign { line });
        };
        if found > next {
            return Err(Violation::Missing {
                row: next,
                found: Some(found),
            });
        }
        if found < next {
            // Several kills may have left the same length; one of them with work in flight explains it.
            if !kills.iter().any(|k| k.whole == at && !k.paused) {
                return Err(Violation::Again { row: found });
            }
            if next - found > BATCH {
                return Err(Violation::TooManyAgain {
                    row: found,
                    rows: next - found,
                });
            }
            repeated.rows.push(next - found);
        }
        next = found + 1;
        at += text.len() as u64;
    }
    if next < rows.len() {
        return Err(Violation::Missing {
            row: next,
            found: None,
        });
    }
    Ok(repeated)
}
