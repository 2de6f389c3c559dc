//! `tidegate watch`: a line for each change, and on a terminal a live line below.
use super::link::{ClientError, Link};
use super::sse::{Event as Frame, Events};
use super::table::held_by;
use super::text::{Out, clean, grouped};
use crate::cli::WatchArgs;
use reqwest::{Method, StatusCode};
use std::collections::VecDeque;
use std::time::Duration;
use tidegate_admin::{Change, Event, Status, StreamStatus, SwitchStatus};
use tokio::time::{Instant, sleep, timeout};

/// A tidegate that is silent for longer than this is gone: it sends something every 15 s at least.
const SILENCE: Duration = Duration::from_secs(40);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// The rate is counted over this time.
const WINDOW: Duration = Duration::from_secs(3);

/// Watches until whoever started it ends it, or the first connection fails. A connection that is lost later is made
/// again, and a line says that what was shown is old.
pub(super) async fn watch(link: &Link, args: &WatchArgs, out: &mut Out<'_>) -> Result<u8, ClientError> {
    let mut view = View::default();
    let mut retry = FIRST_RETRY;
    let mut ever = false;
    loop {
        match follow(link, args, &mut view, &mut ever, out).await {
            Ok(()) => retry = FIRST_RETRY,
            Err(ClientError::Unreachable { .. } | ClientError::Answer { status: 503, .. }) if ever => {}
            Err(error) => return Err(error),
        }
        if !std::mem::replace(&mut view.lost, true) && !args.json {
            out.line(&out.alarm(&format!(
                "no answer from {}: what is shown above is old; trying again",
                link.at()
            )))?;
        }
        sleep(retry).await;
        retry = (retry * 2).min(LAST_RETRY);
    }
}

/// One connection, to its end.
async fn follow(
    link: &Link,
    args: &WatchArgs,
    view: &mut View,
    ever: &mut bool,
    out: &mut Out<'_>,
) -> Result<(), ClientError> {
    let asked = link.send(Method::GET, &["watch"], &[], None, None);
    let Ok(response) = timeout(SILENCE, asked).await else {
        return Err(ClientError::Unreachable {
            at: link.at().to_owned(),
            why: "no answer in time".into(),
        });
    };
    let mut response = response?;
    if response.status() != StatusCode::OK {
        let status = response.status();
        let bytes = timeout(SILENCE, response.chunk())
            .await
            .ok()
            .and_then(Result::ok)
            .flatten();
        let answer = super::link::Answer {
            status,
            bytes: bytes.map(|b| b.to_vec()).unwrap_or_default(),
        };
        return Err(match status {
            StatusCode::NOT_FOUND => link.strange("it answers 404"),
            _ => link.refusal(&answer),
        });
    }
    let mut events = Events::default();
    loop {
        let chunk = match timeout(SILENCE, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None) | Err(_)) | Err(_) if *ever => return Ok(()),
            Ok(Err(error)) => return Err(link.broken(&error)),
            Ok(Ok(None)) | Err(_) => return Err(link.strange("its watch says nothing")),
        };
        let mut frames = Vec::new();
        if !events.feed(&chunk, &mut frames) {
            return Err(link.strange("its watch never ends an event"));
        }
        for frame in frames {
            *ever = true;
            if args.json {
                out.line(&frame.data)?;
            } else {
                view.show(link, &frame, out)?;
            }
        }
    }
}

/// What is known.
#[derive(Default)]
struct View {
    streams: Vec<StreamStatus>,
    switches: Vec<SwitchStatus>,
    alarms: Vec<String>,
    closing: bool,
    lost: bool,
    /// Event counts, oldest first, for the rate.
    counts: VecDeque<(Instant, Vec<u64>)>,
}

impl View {
    fn show(&mut self, link: &Link, frame: &Frame, out: &mut Out<'_>) -> Result<(), ClientError> {
        let odd = |_| link.strange("its watch sends something else than expected");
        match frame.name.as_str() {
            "state" => self.state(serde_json::from_str(&frame.data).map_err(odd)?, out)?,
            "change" => self.change(serde_json::from_str(&frame.data).map_err(odd)?, out)?,
            "dropped" | "end" => {
                let said: serde_json::Value = serde_json::from_str(&frame.data).map_err(odd)?;
                let reason = said
                    .get("reason")
                    .and_then(|r| r.as_str())
                    .unwrap_or("no reason given");
                out.line(&out.alarm(&format!("the watch ends: {}", clean(reason))))?;
            }
            _ => {}
        }
        self.count();
        out.live(&self.line(out))?;
        Ok(())
    }

    fn state(&mut self, status: Status, out: &mut Out<'_>) -> std::io::Result<()> {
        if std::mem::take(&mut self.lost) {
            out.line("answering again:")?;
        }
        self.counts.clear();
        for stream in &status.streams {
            let known = self.streams.iter().find(|s| s.name == stream.name);
            if known.is_none_or(|k| k.state != stream.state || k.holds != stream.holds) {
                let mut line = format!(
                    "{}  {}: {}",
                    clock(&status.at),
                    clean(&stream.name),
                    out.word(&clean(&stream.state))
                );
                for hold in &stream.holds {
                    line.push_str(&format!(", {}", held_by(hold, status.at.parse().ok())));
                }
                out.line(&line)?;
            }
        }
        for switch in status.switches.iter().filter(|s| s.error.is_some()) {
            out.line(&switch_line(out, &status.at, switch))?;
        }
        (self.streams, self.switches) = (status.streams, status.switches);
        self.around(status.alarms, status.closing, &status.at, out)
    }

    fn change(&mut self, change: Change, out: &mut Out<'_>) -> std::io::Result<()> {
        for event in &change.events {
            if let Some(line) = event_line(out, event) {
                out.line(&line)?;
            }
        }
        for switch in change.switches {
            let known = self.switches.iter_mut().find(|s| s.name == switch.name);
            let news = known
                .as_ref()
                .is_none_or(|k| k.error != switch.error || k.reading != switch.reading);
            if news {
                out.line(&switch_line(out, &change.at, &switch))?;
            }
            match known {
                Some(known) => *known = switch,
                None => self.switches.push(switch),
            }
        }
        for stream in change.streams {
            match self.streams.iter_mut().find(|s| s.name == stream.name) {
                Some(known) => {
                    if let Some(error) = stream.error.as_ref().filter(|e| known.error.as_ref() != Some(e)) {
                        let line =
                            format!("{}  {}: {}", clock(&change.at), clean(&stream.name), clean(error));
                        out.line(&out.alarm(&line))?;
                    }
                    *known = stream;
                }
                None => self.streams.push(stream),
            }
        }
        self.around(change.alarms, change.closing, &change.at, out)
    }

    fn around(
        &mut self,
        alarms: Vec<String>,
        closing: bool,
        at: &str,
        out: &mut Out<'_>,
    ) -> std::io::Result<()> {
        for alarm in alarms.iter().filter(|a| !self.alarms.contains(a)) {
            out.line(&out.alarm(&format!("{}  {}", clock(at), clean(alarm))))?;
        }
        self.alarms = alarms;
        if closing && !self.closing {
            out.line(&out.alarm(&format!("{}  the process is stopping", clock(at))))?;
        }
        self.closing = closing;
        Ok(())
    }

    fn count(&mut self) {
        let now = Instant::now();
        self.counts
            .push_back((now, self.streams.iter().map(|s| s.events).collect()));
        while self
            .counts
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
            && self.counts.len() > 2
        {
            self.counts.pop_front();
        }
    }

    /// The live line.
    fn line(&self, out: &Out<'_>) -> String {
        let of = self.streams.iter().enumerate().map(|(i, s)| {
            let held = s
                .holds
                .iter()
                .map(|h| clean(&h.controller))
                .collect::<Vec<_>>()
                .join(", ");
            let held = if held.is_empty() {
                String::new()
            } else {
                format!(" by {held}")
            };
            let in_flight = if s.in_flight > 0 {
                format!(" {} in flight", s.in_flight)
            } else {
                String::new()
            };
            format!(
                "{} {}{held} {}/s{in_flight}",
                clean(&s.name),
                out.word(&clean(&s.state)),
                grouped(self.rate(i))
            )
        });
        of.collect::<Vec<_>>().join("  ")
    }

    fn rate(&self, stream: usize) -> u64 {
        let (Some((from, then)), Some((to, now))) = (self.counts.front(), self.counts.back()) else {
            return 0;
        };
        let moved = now
            .get(stream)
            .unwrap_or(&0)
            .saturating_sub(*then.get(stream).unwrap_or(&0));
        let millis = u64::try_from(to.duration_since(*from).as_millis()).unwrap_or(u64::MAX);
        moved.saturating_mul(1000).checked_div(millis).unwrap_or_default()
    }
}

fn switch_line(out: &Out<'_>, at: &str, switch: &SwitchStatus) -> String {
    let (name, reading) = (clean(&switch.name), clean(&switch.reading));
    match &switch.error {
        // The sentence names the switch.
        Some(error) => out.alarm(&format!("{}  {}", clock(at), clean(error))),
        None => format!("{}  switch {name}: {reading}", clock(at)),
    }
}

pub(super) fn event_line(out: &Out<'_>, event: &Event) -> Option<String> {
    let stream = clean(event.stream.as_deref()?);
    let what = match event.kind.as_str() {
        "transition" => {
            let latency = event
                .flip_latency_ms
                .map(|ms| format!("  {ms:.1} ms after the flip was read"));
            let (from, to) = (
                clean(event.from.as_deref()?),
                out.word(&clean(event.to.as_deref()?)),
            );
            format!("{from} -> {to}{}", latency.unwrap_or_default())
        }
        "hold_placed" => "hold placed".into(),
        "hold_released" => "hold released".into(),
        "hold_expired" => "hold expired".into(),
        "override" => "hold set aside".into(),
        "refused" => "call refused".into(),
        "drill" => "drill".into(),
        // What a switch reads is told by its own line.
        _ => return None,
    };
    let mut line = format!("{}  {stream}: {what}", clock(&event.time));
    if let Some(controller) = &event.controller {
        line.push_str(&format!("  {}", clean(controller)));
    }
    if let Some(reason) = &event.reason {
        line.push_str(&format!(": {}", clean(reason)));
    }
    if let Some(by) = event.by.as_ref().or(event.actor.as_ref()) {
        line.push_str(&format!(" ({})", clean(by)));
    }
    Some(line)
}

/// The time of day in the zone it was sent in, which is UTC.
pub(super) fn clock(at: &str) -> String {
    match at.parse::<jiff::Timestamp>() {
        Ok(at) => at.strftime("%H:%M:%S%.3fZ").to_string(),
        Err(_) => clean(at),
    }
}
