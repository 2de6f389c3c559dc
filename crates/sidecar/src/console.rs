//! What a person at a terminal sees of a running process: a line for each thing that happens, and below them one
//! live line with state, rate and who holds.
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_gate::{Act, Controller, Hold, Holds, Record, Snapshot, State, StreamStatus};
use tokio_util::sync::CancellationToken;

/// How often the live line is drawn anew.
const FRAME: Duration = Duration::from_millis(250);
/// The rate is counted over this many frames, so that it falls to zero within a second of a pause.
const WINDOW: usize = 3;

/// Where a console draws, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A terminal: a live line that is drawn over.
    Live {
        /// States in colour.
        colour: bool,
    },
    /// Anything else: a line a second, and a line for each change.
    Plain,
}

impl Style {
    /// The style that fits standard output, with `NO_COLOR` honoured.
    #[cfg(feature = "devstore")]
    pub(crate) fn of_stdout() -> Style {
        Style::of(std::io::stdout().is_terminal())
    }

    /// The style that fits standard error, with `NO_COLOR` honoured.
    pub(crate) fn of_stderr() -> Style {
        Style::of(std::io::stderr().is_terminal())
    }

    fn of(terminal: bool) -> Style {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        if terminal {
            Style::Live { colour }
        } else {
            Style::Plain
        }
    }
}

/// Draws until `stop`. A write that fails ends it: nobody is reading.
pub(crate) async fn draw(
    holds: Arc<Holds>,
    mut out: impl Write + Send,
    style: Style,
    stop: CancellationToken,
) {
    let mut end = holds.journal_end();
    let mut seen = *end.borrow_and_update();
    let mut rates = Rates::default();
    let mut frames = tokio::time::interval(FRAME);
    frames.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut frame = 0_u32;
    loop {
        let tick = tokio::select! {
            () = stop.cancelled() => false,
            _ = frames.tick() => true,
            changed = end.changed() => if changed.is_err() { return } else { false },
        };
        let stopping = stop.is_cancelled();
        let mut text = String::new();
        for record in holds.journal_after(seen) {
            seen = record.seq;
            if let Some(line) = happening(&record, style) {
                if matches!(style, Style::Live { .. }) {
                    text.push_str("\r\x1b[2K");
                }
                text.push_str(&line);
                text.push('\n');
            }
        }
        end.borrow_and_update();
        if tick {
            frame = frame.wrapping_add(1);
            let snapshot = holds.snapshot();
            rates.note(&snapshot);
            match style {
                Style::Live { .. } => {
                    let line = live(&snapshot, &rates, style);
                    text.push_str("\r\x1b[2K");
                    text.push_str(&line);
                }
                Style::Plain if frame % 4 == 1 => {
                    text.push_str(&live(&snapshot, &rates, style));
                    text.push('\n');
                }
                Style::Plain => {}
            }
        }
        if stopping && matches!(style, Style::Live { .. }) {
            text.push('\n');
        }
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() || stopping {
            return;
        }
    }
}

#[derive(Default)]
struct Rates(std::collections::VecDeque<(Instant, Vec<u64>)>);

impl Rates {
    fn note(&mut self, snapshot: &Snapshot) {
        self.0
            .push_back((snapshot.mono, snapshot.streams.iter().map(|s| s.events).collect()));
        while self.0.len() > WINDOW + 1 {
            self.0.pop_front();
        }
    }

    fn of(&self, stream: usize) -> f64 {
        let (Some((from, then)), Some((to, now))) = (self.0.front(), self.0.back()) else {
            return 0.0;
        };
        let seconds = to.saturating_duration_since(*from).as_secs_f64();
        let count = |of: &[u64]| of.get(stream).copied().unwrap_or_default();
        let moved = count(now).saturating_sub(count(then));
        // Counters stay far below 2^53.
        if seconds > 0.0 {
            moved as f64 / seconds
        } else {
            0.0
        }
    }
}

fn live(snapshot: &Snapshot, rates: &Rates, style: Style) -> String {
    let streams: Vec<String> = snapshot
        .streams
        .iter()
        .enumerate()
        .map(|(i, s)| one(s, rates.of(i), style))
        .collect();
    let line = streams.join("  |  ");
    match style {
        // A line that wraps cannot be drawn over.
        Style::Live { .. } => cut(&line, width().saturating_sub(1)),
        Style::Plain => line,
    }
}

fn one(stream: &StreamStatus, rate: f64, style: Style) -> String {
    let mut line = format!(
        "{}  {}  {rate:.0} events/s",
        stream.name,
        word(stream.state, style)
    );
    line.push_str(&format!("  {} in flight", stream.in_flight));
    if stream.held.events > 0 {
        line.push_str(&format!("  {} held back", stream.held.events));
    }
    for (controller, hold) in &stream.holds {
        line.push_str("  ");
        line.push_str(&held_by(controller, hold));
    }
    if let Some(error) = stream.life.error() {
        line.push_str("  ");
        line.push_str(error);
    }
    line
}

fn held_by(controller: &Controller, hold: &Hold) -> String {
    let reason = hold
        .reason
        .as_ref()
        .map(|r| format!(" \"{r}\""))
        .unwrap_or_default();
    let by = hold.by.as_ref().map(|b| format!(" by {b}")).unwrap_or_default();
    format!("held by {controller}{reason}{by}")
}

fn happening(record: &Record, style: Style) -> Option<String> {
    let time = clock_time(record.at);
    let who = record
        .controller
        .as_ref()
        .map(|c| format!(" by {c}"))
        .unwrap_or_default();
    let why = record
        .reason
        .as_ref()
        .map(|r| format!(" \"{r}\""))
        .unwrap_or_default();
    let name = record.stream.as_deref().unwrap_or_default();
    match record.act {
        Act::Transition => {
            let (from, to) = (record.from?, record.to?);
            let asked = match record.controller {
                Some(Controller::Switch(_)) => "reading",
                _ => "call",
            };
            let after = record
                .flip_latency
                .map(|l| format!(", {:.2} ms after the {asked}", l.as_secs_f64() * 1e3))
                .unwrap_or_default();
            Some(format!(
                "{time}  {name}: {} -> {}{who}{why}{after}",
                from.word(),
                word(to, style)
            ))
        }
        Act::Reading => {
            let switch = record.switch.as_deref().unwrap_or_default();
            let version = record
                .version
                .as_ref()
                .map(|v| format!(" (version {v})"))
                .unwrap_or_default();
            let reason = record.reason.as_deref().unwrap_or_default();
            Some(format!("{time}  switch {switch} reads {reason}{version}"))
        }
        Act::Overridden => Some(format!("{time}  {name}: hold of{who} set aside{why}")),
        Act::Drill => Some(format!("{time}  {name}: drill{why}")),
        Act::Expired => Some(format!("{time}  {name}: hold{who} expired")),
        Act::Placed | Act::Released | Act::Refused => None,
    }
}

fn clock_time(at: std::time::SystemTime) -> String {
    jiff::Timestamp::try_from(at)
        .map(|t| t.strftime("%H:%M:%S%.3f").to_string())
        .unwrap_or_default()
}

fn word(state: State, style: Style) -> String {
    let word = state.word();
    let paint = match state {
        State::Running => "32",
        State::Pausing | State::Draining | State::Hiatus => "33",
        State::Paused => "1;35",
        State::Failed => "1;31",
        State::Starting | State::Stopped => "2",
    };
    match style {
        Style::Live { colour: true } => format!("\x1b[{paint}m{word}\x1b[0m"),
        _ => word.to_owned(),
    }
}

fn width() -> usize {
    terminal_size::terminal_size().map_or(80, |(w, _)| usize::from(w.0))
}

/// Cuts to `width` visible characters; escape sequences take no room.
fn cut(line: &str, width: usize) -> String {
    let mut out = String::with_capacity(line.len());
    let (mut shown, mut escape) = (0, false);
    for c in line.chars() {
        if c == '\x1b' {
            escape = true;
        }
        if escape {
            out.push(c);
            escape = c != 'm';
            continue;
        }
        if shown == width {
            continue;
        }
        out.push(c);
        shown += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_by_what_is_seen_and_colours_are_closed() {
        assert_eq!(cut("\x1b[32mrunning\x1b[0m  x", 4), "\x1b[32mrunn\x1b[0m");
        assert_eq!(cut("abc", 10), "abc");
    }
}
