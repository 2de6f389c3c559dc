//! Status for people: a table that fits the line, and under each row what a person has to know.
use super::text::{Out, clean, grouped, pad, pad_left, span, wrap};
use jiff::Timestamp;
use std::time::Duration;
use tidegate_admin::{HoldStatus, Status, StreamStatus, SwitchStatus, Work};

const STATE: usize = 8;

/// Prints everything.
pub(super) fn print(out: &mut Out<'_>, status: &Status) -> std::io::Result<()> {
    let now: Option<Timestamp> = status.at.parse().ok();
    let width = out.look.width;
    if status.closing {
        let line = out.alarm("The process is stopping.");
        out.line(&line)?;
    }
    for alarm in &status.alarms {
        for line in wrap(&clean(alarm), width) {
            let line = out.alarm(&line);
            out.line(&line)?;
        }
    }
    // 80 characters: two blanks between columns, the rest for the name.
    let name = width.saturating_sub(STATE + 9 + 9 + 13 + 8 + 5 * 2).clamp(8, 40);
    let head = format!(
        "{}  {}  {}  {}  {}  {}",
        pad("STREAM", name),
        pad("STATE", STATE),
        pad_left("IN FLIGHT", 9),
        pad_left("HELD", 9),
        pad_left("EVENTS", 13),
        "SINCE"
    );
    out.line(&out.dim(&head))?;
    for stream in &status.streams {
        let row = format!(
            "{}  {}  {}  {}  {}  {}",
            pad(&clean(&stream.name), name),
            out.state(&clean(&stream.state), STATE),
            pad_left(&grouped(stream.in_flight), 9),
            pad_left(&grouped(stream.held), 9),
            pad_left(&grouped(stream.events), 13),
            since(&stream.last_transition, now).unwrap_or_default(),
        );
        out.line(row.trim_end())?;
        for note in notes(stream, now) {
            under(out, &note)?;
        }
    }
    if status.streams.is_empty() {
        out.line("(no stream or gate)")?;
    }
    out.line("")?;
    let head = format!(
        "{}  {}  {}  {}  {}",
        pad("SWITCH", name),
        pad("STORE", 15),
        pad("READING", 11),
        pad("VERSION", 10),
        "AGE"
    );
    out.line(&out.dim(&head))?;
    for switch in &status.switches {
        let row = format!(
            "{}  {}  {}  {}  {}",
            pad(&clean(&switch.name), name),
            pad(&clean(&switch.provider), 15),
            pad(&clean(&switch.reading), 11),
            pad(&clean(switch.version.as_deref().unwrap_or("-")), 10),
            switch
                .age_seconds
                .and_then(seconds)
                .map_or_else(|| "never read".into(), span),
        );
        out.line(row.trim_end())?;
        for note in switch_notes(switch) {
            under(out, &note)?;
        }
    }
    if status.switches.is_empty() {
        out.line("(no switch: only the control API pauses)")?;
    }
    Ok(())
}

fn under(out: &mut Out<'_>, note: &Note) -> std::io::Result<()> {
    for line in wrap(&format!("  {}", note.text), out.look.width) {
        let line = if note.alarm { out.alarm(&line) } else { line };
        out.line(&line)?;
    }
    Ok(())
}

struct Note {
    text: String,
    alarm: bool,
}

fn notes(stream: &StreamStatus, now: Option<Timestamp>) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut say = |alarm: bool, text: String| notes.push(Note { text, alarm });
    for hold in &stream.holds {
        say(false, held_by(hold, now));
    }
    for hold in &stream.set_aside {
        say(
            true,
            format!("set aside until its next version: {}", held_by(hold, now)),
        );
    }
    if stream.state != "running" {
        for line in blocking(stream, true) {
            say(false, line);
        }
    }
    if stream.parked {
        say(
            false,
            "what was held is given back to its source until the resume".into(),
        );
    } else if let Some(left) = stream.lease_left_seconds.and_then(seconds) {
        say(
            false,
            format!("its source takes back what is held in {}", span(left)),
        );
    }
    // Before a stream's gate stand its own lanes, with what is told as held.
    if stream.waiting > 0 && stream.kind == "gate" {
        say(false, format!("{} wait before the gate", grouped(stream.waiting)));
    }
    if stream.upgraded > 0 {
        say(
            false,
            format!("{} upgraded connections are open", grouped(stream.upgraded)),
        );
    }
    if stream.dead_letters > 0 {
        say(true, format!("{} dead letters", grouped(stream.dead_letters)));
    }
    if let Some(error) = &stream.error {
        let tried = match stream.attempts {
            0 => String::new(),
            n => format!(" (tried {n} times)"),
        };
        say(true, format!("error: {}{tried}", clean(error)));
    }
    notes
}

fn switch_notes(switch: &SwitchStatus) -> Vec<Note> {
    let mut notes = Vec::new();
    if switch.stale {
        notes.push(Note {
            text: "its last good reading is older than max_stale".into(),
            alarm: true,
        });
    }
    let said = switch.error.iter().chain(&switch.warnings);
    notes.extend(said.map(|text| Note {
        text: clean(text),
        alarm: true,
    }));
    notes
}

/// What still runs, a line each; ages differ at every look.
pub(super) fn blocking(stream: &StreamStatus, ages: bool) -> Vec<String> {
    const SHOWN: usize = 5;
    let line = |work: &Work| {
        let age = seconds(work.age_seconds)
            .filter(|_| ages)
            .map(|a| format!(" for {}", span(a)));
        format!("still runs: {}{}", clean(&work.name), age.unwrap_or_default())
    };
    let mut lines: Vec<String> = stream.running.iter().take(SHOWN).map(line).collect();
    // Not everything that runs has a name.
    let shown = lines.len() as u64;
    let rest = stream.in_flight.saturating_sub(shown);
    if shown > 0 && rest > 0 {
        lines.push(format!("and {} more", grouped(rest)));
    }
    lines
}

/// `held by switch:ops for 2m 10s, until 2026-11-22T18:00:00Z: database work (ana)`.
pub(super) fn held_by(hold: &HoldStatus, now: Option<Timestamp>) -> String {
    let mut text = format!("held by {}", clean(&hold.controller));
    if let Some(since) = since(&hold.since, now) {
        text.push_str(&format!(" for {since}"));
    }
    if let Some(until) = &hold.until {
        text.push_str(&format!(", until {}", clean(until)));
    }
    if let Some(reason) = &hold.reason {
        text.push_str(&format!(": {}", clean(reason)));
    }
    let who = [hold.by.as_deref(), hold.actor.as_deref()];
    match who.map(|w| w.map(clean)) {
        [Some(by), Some(actor)] if by != actor => text.push_str(&format!(" ({by}, by way of {actor})")),
        [Some(who), _] | [None, Some(who)] => text.push_str(&format!(" ({who})")),
        [None, None] => {}
    }
    text
}

/// How long ago, by the clock of whoever answered.
fn since(then: &str, now: Option<Timestamp>) -> Option<String> {
    let then: Timestamp = then.parse().ok()?;
    let elapsed = now?.duration_since(then);
    Some(span(Duration::try_from(elapsed).unwrap_or_default()))
}

/// A number that came from elsewhere, as a duration if it is one.
fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number).ok()
}
