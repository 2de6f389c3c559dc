//! `tidegate drill`: what a try of the button found, and what it measured.
use super::act::with_known_names;
use super::link::{ClientError, Link};
use super::text::{Out, clean, pad, span, wrap};
use crate::cli::{DrillArgs, exit};
use reqwest::{Method, StatusCode};
use serde_json::{Map, json};
use std::time::Duration;
use tidegate_admin::{Check, Drill};

/// The switches are read within 30 s, and a live drill ends within its own length and 10 s.
const READ: Duration = Duration::from_secs(45);

/// Tries one stream, and returns [`exit::OK`] if nothing was found and [`exit::NOT_YET`] if something was.
pub(super) async fn drill(link: &Link, args: &DrillArgs, out: &mut Out<'_>) -> Result<u8, ClientError> {
    let mut body = Map::new();
    for (field, length) in [("live", args.live), ("pause", args.pause)] {
        if let Some(length) = length {
            body.insert(
                field.into(),
                json!(humantime::format_duration(length).to_string()),
            );
        }
    }
    let path = ["streams", &args.stream, "drill"];
    let patience = READ + args.live.unwrap_or_default();
    let answer = link
        .ask(Method::POST, &path, &[], Some(&body.into()), patience)
        .await?;
    if answer.status != StatusCode::OK {
        let error = link.refusal(&answer);
        return Err(with_known_names(link, Some(&args.stream), error).await);
    }
    let drill: Drill = link.read(&answer)?;
    if args.json {
        out.raw(&answer.bytes)?;
        if !answer.bytes.ends_with(b"\n") {
            out.raw(b"\n")?;
        }
    } else {
        print(out, &drill)?;
    }
    Ok(if drill.passed { exit::OK } else { exit::NOT_YET })
}

fn print(out: &mut Out<'_>, drill: &Drill) -> std::io::Result<()> {
    for check in &drill.checks {
        said(out, check)?;
    }
    let expected = &drill.expected;
    let line = match (expected.typical_seconds, expected.worst_seconds) {
        (Some(typical), Some(worst)) => format!(
            "A flip is expected to be proven after {}, {} at the latest: interval {}, read {}, quiescing {}.",
            told(typical),
            told(worst),
            expected.interval_seconds.map(told).unwrap_or_default(),
            expected.read_seconds.map(told).unwrap_or_default(),
            expected
                .quiesce_seconds
                .map_or_else(|| "not measured yet (--live does)".into(), told),
        ),
        _ => "How soon a flip would be proven is not known: no switch could be read.".into(),
    };
    wrapped(out, &line, false)?;
    if let Some(measured) = &drill.measured {
        let paused = measured.paused_seconds.map_or_else(
            || "was not proven paused in time".to_owned(),
            |s| format!("was proven paused after {}", told(s)),
        );
        let resumed = measured.resumed_seconds.map_or_else(
            || "did not move again by itself".to_owned(),
            |s| format!("moved again {} after the end", told(s)),
        );
        wrapped(out, &format!("It {paused}, and {resumed}."), false)?;
    }
    let found = drill.checks.iter().filter(|c| c.result == "found").count();
    let kind = if drill.live { "live drill" } else { "drill" };
    let stream = clean(&drill.stream);
    match found {
        0 => out.line(&format!("{stream}: {kind} {}", out.paint("passed", "32"))),
        n => out.line(&out.alarm(&format!("{stream}: {kind} found {n} to repair"))),
    }
}

fn said(out: &mut Out<'_>, check: &Check) -> std::io::Result<()> {
    const RESULT: usize = 7;
    const CHECK: usize = 8;
    let switch = check
        .switch
        .as_ref()
        .map(|s| format!("{}: ", clean(s)))
        .unwrap_or_default();
    let room = out.look.width.saturating_sub(RESULT + CHECK + 4);
    let sentence = format!("{switch}{}", clean(&check.told));
    for (i, line) in wrap(&sentence, room).into_iter().enumerate() {
        let (result, name) = match i {
            0 => (check.result.as_str(), check.check.as_str()),
            _ => ("", ""),
        };
        let result = pad(&clean(result), RESULT);
        let result = match check.result.as_str() {
            "ok" => out.paint(&result, "32"),
            "found" => out.alarm(&result),
            _ => out.paint(&result, "33"),
        };
        out.line(&format!("{result}  {}  {line}", pad(&clean(name), CHECK)))?;
    }
    Ok(())
}

fn wrapped(out: &mut Out<'_>, text: &str, alarm: bool) -> std::io::Result<()> {
    for line in wrap(text, out.look.width) {
        let line = if alarm { out.alarm(&line) } else { line };
        out.line(&line)?;
    }
    Ok(())
}

/// To the precision that a person reads.
fn told(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(d) if d < Duration::from_millis(1) => format!("{} µs", d.as_micros()),
        Ok(d) if d < Duration::from_secs(1) => format!("{:.1} ms", d.as_secs_f64() * 1e3),
        Ok(d) if d < Duration::from_secs(60) => format!("{:.2} s", d.as_secs_f64()),
        Ok(d) => span(d),
        Err(_) => "?".into(),
    }
}
