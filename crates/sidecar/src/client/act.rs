//! The commands that change something, or wait for it: pause, resume, override, drain, wait.
use super::link::{Answer, ClientError, Link};
use super::table::{blocking, held_by};
use super::text::{Out, clean, span, wrap};
use crate::cli::{DrainArgs, OverrideArgs, PauseArgs, StreamArgs, Until, WaitArgs, exit};
use crate::config::suggestion;
use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;
use tidegate_admin::{HoldStatus, Status, StreamStatus};
use tokio::time::Instant;

/// One answer of the control API that does not wait for anything.
pub(super) const PROMPT: Duration = Duration::from_secs(10);
/// `poll` answers when every switch is read, within 30 s.
const POLL: Duration = Duration::from_secs(35);
/// Between two looks, for as long as somebody watches the screen; then rarer.
const LOOK: Duration = Duration::from_millis(100);
const LATER_LOOK: Duration = Duration::from_millis(500);
const PATIENT_AFTER: Duration = Duration::from_secs(10);

async fn look_again(started: Instant) {
    let patient = started.elapsed() > PATIENT_AFTER;
    tokio::time::sleep(if patient { LATER_LOOK } else { LOOK }).await;
}

/// `tidegate pause`.
pub(super) async fn pause(link: &Link, args: &PauseArgs, out: &mut Out<'_>) -> Result<u8, ClientError> {
    let mut body = Map::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            body.insert(key.into(), json!(value));
        }
    };
    put("reason", args.reason.clone());
    put("by", args.by.clone().filter(|by| !by.is_empty()));
    put("until", until(args)?.map(|t| t.to_string()));

    // Every stream that was named is held before anything is waited for, also if one of the names is wrong.
    let mut failed = None;
    let mut held = Vec::new();
    for (name, answer) in each(link, &args.on, "pause", Some(Value::Object(body))).await {
        match answer.and_then(|answer| expect_ok(link, answer, name)) {
            Ok(()) => held.extend(name),
            Err(error) => failed = failed.or(Some((name, error))),
        }
    }
    let nothing_held = held.is_empty() && !args.on.streams.is_empty();
    if let Some((name, error)) = failed {
        let error = with_known_names(link, name, error).await;
        if nothing_held || args.on.streams.is_empty() {
            return Err(error);
        }
        out.line(&out.alarm(&error.to_string()))?;
        wait_and_tell(link, args, &held, out).await?;
        return Ok(error.code());
    }
    wait_and_tell(link, args, &held, out).await
}

fn until(args: &PauseArgs) -> Result<Option<Timestamp>, ClientError> {
    match (args.until, args.for_) {
        (Some(at), _) => Ok(Some(at)),
        (None, Some(span)) => Timestamp::now()
            .checked_add(span)
            .map(Some)
            .map_err(|_| ClientError::Usage("--for: that is beyond the end of time".into())),
        (None, None) => Ok(None),
    }
}

async fn wait_and_tell(
    link: &Link,
    args: &PauseArgs,
    held: &[&str],
    out: &mut Out<'_>,
) -> Result<u8, ClientError> {
    let code = if args.no_wait {
        out.line("The hold stands. Whether it is proven that nothing moves: tidegate status")?;
        exit::OK
    } else {
        prove(link, held, args.timeout, out).await?
    };
    let note = format!(
        "This holds the process at {} only; other replicas run on. To hold them all, flip the secret of their switch. \
         A restart of the process forgets this hold unless its state_dir is set.",
        link.at()
    );
    for line in wrap(&note, out.look.width) {
        let line = out.dim(&line);
        out.line(&line)?;
    }
    Ok(code)
}

/// Waits until it is proven that nothing moves, and shows what blocks it.
async fn prove(link: &Link, names: &[&str], timeout: Duration, out: &mut Out<'_>) -> Result<u8, ClientError> {
    let started = Instant::now();
    let mut shown: Vec<String> = Vec::new();
    loop {
        let status: Status = link.get("status", PROMPT).await.map_err(|error| match error {
            ClientError::Denied { at, why, .. } => ClientError::Denied {
                at,
                why: format!("{why}. The hold stands; only the proof cannot be seen"),
                advice: "Use a token with the right to read, or --no-wait",
            },
            other => other,
        })?;
        let of = chosen(&status, names);
        if let Some(stream) = of.iter().find(|s| !s.holds.iter().any(|h| h.controller == "api")) {
            out.line(&out.alarm(&format!(
                "{}: the hold is gone again: it ended, or somebody resumed it",
                clean(&stream.name)
            )))?;
            return Ok(exit::NOT_YET);
        }
        if of.iter().all(|s| stands_still(s)) {
            for stream in &of {
                let line = still_line(out, stream);
                out.line(&line)?;
            }
            return Ok(exit::OK);
        }
        let moving: Vec<&StreamStatus> = of.iter().copied().filter(|s| !stands_still(s)).collect();
        let lines: Vec<String> = moving.iter().flat_map(|s| moving_lines(s, true)).collect();
        if started.elapsed() >= timeout {
            for line in &lines {
                out.line(line)?;
            }
            out.line(&out.alarm(&format!(
                "Not proven within {}. The hold stands: no new work passes. Ask again with: tidegate status",
                humantime::format_duration(timeout)
            )))?;
            return Ok(exit::NOT_YET);
        }
        if out.look.live {
            out.live(&format!("{}  {}", span(started.elapsed()), lines.join("  ")))?;
        } else {
            // Ages differ at every look; a pipe is told again only when something else does.
            let told: Vec<String> = moving.iter().flat_map(|s| moving_lines(s, false)).collect();
            if told != shown {
                for line in &told {
                    out.line(line)?;
                }
                shown = told;
            }
        }
        look_again(started).await;
    }
}

/// Nothing moves, or it is a gate that serves on while held, of which nothing more can be proven.
fn stands_still(stream: &StreamStatus) -> bool {
    match stream.state.as_str() {
        "paused" | "stopped" | "hiatus" => true,
        "failed" => stream.in_flight == 0,
        _ => false,
    }
}

fn still_line(out: &Out<'_>, stream: &StreamStatus) -> String {
    let what = match stream.state.as_str() {
        "paused" => "nothing is in flight".to_owned(),
        "hiatus" => format!(
            "its health says that it is held, and it serves on (on_hold = \"serve\"): {} in flight",
            stream.in_flight
        ),
        _ => "it does not run".to_owned(),
    };
    format!(
        "{}  {}  {what}",
        clean(&stream.name),
        out.word(&clean(&stream.state))
    )
}

fn moving_line(stream: &StreamStatus) -> String {
    let (name, state) = (clean(&stream.name), clean(&stream.state));
    format!("{name}  {state}  {} in flight", stream.in_flight)
}

fn moving_lines(stream: &StreamStatus, ages: bool) -> Vec<String> {
    let mut lines = vec![moving_line(stream)];
    let running = blocking(stream, ages).into_iter();
    lines.extend(running.map(|line| format!("  {line}")));
    lines
}

/// A hold that stands after a resume.
#[derive(Deserialize)]
struct Standing {
    #[serde(default)]
    holds: Vec<StandingHold>,
}

#[derive(Deserialize)]
struct StandingHold {
    #[serde(default)]
    stream: String,
    #[serde(flatten)]
    hold: HoldStatus,
}

/// `tidegate resume`.
pub(super) async fn resume(link: &Link, args: &StreamArgs, out: &mut Out<'_>) -> Result<u8, ClientError> {
    // A flag that was flipped back a moment ago would otherwise be reported as still holding.
    let polled = link.ask(Method::POST, &["poll"], &[], None, POLL).await?;
    match polled.status {
        StatusCode::OK => said(link, &polled)?,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(link.refusal(&polled)),
        StatusCode::NOT_FOUND => return Err(link.strange(&not_found(&polled))),
        _ => {
            let why = polled.sentence().unwrap_or_else(|| polled.status.to_string());
            out.line(&out.alarm(&format!("The switches could not be read first: {why}")))?;
        }
    }
    let mut failed = None;
    let mut standing: Vec<StandingHold> = Vec::new();
    let mut done = Vec::new();
    for (name, answer) in each(link, args, "resume", None).await {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                failed = failed.or(Some((name, error)));
                continue;
            }
        };
        if answer.status == StatusCode::CONFLICT {
            standing.extend(link.read::<Standing>(&answer)?.holds);
        } else if let Err(error) = expect_ok(link, answer, name) {
            failed = failed.or(Some((name, error)));
        } else {
            done.extend(name);
        }
    }
    if standing.is_empty() && failed.is_none() {
        let line = match done.as_slice() {
            [] => "Resumed: nothing holds any more.".to_owned(),
            names => format!(
                "Resumed: {}.",
                names.iter().map(|n| clean(n)).collect::<Vec<_>>().join(", ")
            ),
        };
        out.line(&line)?;
        return Ok(exit::OK);
    }
    if !standing.is_empty() {
        out.line("The API's hold is released. Still held:")?;
        tell_standing(&standing, out)?;
    }
    match failed {
        Some((name, error)) => Err(with_known_names(link, name, error).await),
        None => Ok(exit::NOT_YET),
    }
}

fn tell_standing(standing: &[StandingHold], out: &mut Out<'_>) -> Result<(), ClientError> {
    let now = Some(Timestamp::now());
    let width = out.look.width;
    let mut told: Vec<&str> = Vec::new();
    for StandingHold { stream, hold } in standing {
        let line = format!("  {}: {}", clean(stream), held_by(hold, now));
        for line in wrap(line.trim_start_matches("  : "), width) {
            out.line(&line)?;
        }
        if told.contains(&hold.controller.as_str()) {
            continue;
        }
        told.push(&hold.controller);
        let advice = match hold.controller.strip_prefix("switch:").map(clean) {
            Some(switch) => format!(
                "    Flip the secret of switch \"{switch}\" to false. If its store is lost: tidegate override {} \
                 --switch {switch} --reason \"…\"",
                clean(stream)
            ),
            None if hold.controller == "stop" => "    The process is stopping; this ends with it.".to_owned(),
            None => continue,
        };
        for line in wrap(&advice, width) {
            let line = out.dim(&line);
            out.line(&line)?;
        }
    }
    Ok(())
}

/// `tidegate override`.
pub(super) async fn set_aside(
    link: &Link,
    args: &OverrideArgs,
    out: &mut Out<'_>,
) -> Result<u8, ClientError> {
    let switch = args.switch.strip_prefix("switch:").unwrap_or(&args.switch);
    let body = json!({ "controller": format!("switch:{switch}"), "reason": args.reason });
    let on = StreamArgs {
        streams: args.streams.clone(),
    };
    let mut code = exit::OK;
    let mut failed = None;
    for (name, answer) in each(link, &on, "override", Some(body)).await {
        let answer = answer.and_then(|answer| match answer.status {
            StatusCode::OK => said(link, &answer).and_then(|()| link.read::<Standing>(&answer)),
            _ => Err(refusal_of(link, &answer, name)),
        });
        match answer {
            Ok(Standing { holds }) => {
                let name = clean(name.unwrap_or_default());
                out.line(&format!(
                    "{name}: the hold of switch:{} is set aside until its secret has a new version",
                    clean(switch)
                ))?;
                if !holds.is_empty() {
                    code = exit::NOT_YET;
                    out.line(&format!("{name} is still held:"))?;
                    tell_standing(&holds, out)?;
                }
            }
            Err(error) => failed = failed.or(Some((name, error))),
        }
    }
    match failed {
        Some((name, error)) => Err(with_known_names(link, name, error).await),
        None => Ok(code),
    }
}

/// What still runs when a drain was given up.
#[derive(Deserialize)]
struct Undrained {
    #[serde(default)]
    in_flight: u64,
    #[serde(default)]
    streams: Vec<StillRunning>,
}

#[derive(Deserialize)]
struct StillRunning {
    name: String,
    in_flight: u64,
    #[serde(default)]
    running: Vec<Work>,
}

#[derive(Deserialize)]
struct Work {
    name: String,
    age_seconds: f64,
}

/// `tidegate drain`.
pub(super) async fn drain(link: &Link, args: &DrainArgs, out: &mut Out<'_>) -> Result<u8, ClientError> {
    let timeout = humantime::format_duration(args.timeout).to_string();
    let mut query = vec![("timeout", timeout.clone())];
    if args.close {
        query.push(("close", "true".into()));
    }
    // With --close, the answer comes `drain_delay` later still.
    let patience = args.timeout + Duration::from_secs(if args.close { 3600 } else { 10 });
    let answer = link.ask(Method::POST, &["drain"], &query, None, patience).await?;
    match answer.status {
        StatusCode::OK => {
            said(link, &answer)?;
            out.line("Drained: nothing is in flight.")?;
            Ok(exit::OK)
        }
        StatusCode::CONFLICT => {
            let why = answer.sentence().unwrap_or_else(|| "nothing is held".into());
            out.line(&out.alarm(&format!("Not drained: {why}")))?;
            Ok(exit::NOT_YET)
        }
        StatusCode::GATEWAY_TIMEOUT => {
            let left: Undrained = link.read(&answer)?;
            out.line(&out.alarm(&format!(
                "Not drained within {timeout}: {} in flight.",
                left.in_flight
            )))?;
            for stream in left.streams {
                out.line(&format!(
                    "  {}  {} in flight",
                    clean(&stream.name),
                    stream.in_flight
                ))?;
                for work in stream.running {
                    let age = Duration::try_from_secs_f64(work.age_seconds)
                        .map(span)
                        .unwrap_or_default();
                    out.line(&format!("    still runs: {} for {age}", clean(&work.name)))?;
                }
            }
            Ok(exit::NOT_YET)
        }
        StatusCode::NOT_FOUND => Err(link.strange(&not_found(&answer))),
        _ => Err(link.refusal(&answer)),
    }
}

/// `tidegate wait`. A tidegate that does not answer yet is waited for too.
pub(super) async fn wait(link: &Link, args: &WaitArgs, out: &mut Out<'_>) -> Result<u8, ClientError> {
    let started = Instant::now();
    let names: Vec<&str> = args.on.streams.iter().map(String::as_str).collect();
    let mut last = "it does not answer".to_owned();
    let mut silent = false;
    loop {
        match link.get::<Status>("status", PROMPT).await {
            Ok(status) => {
                check_names(&status, &names)?;
                let of = chosen(&status, &names);
                let waiting: Vec<&StreamStatus> =
                    of.iter().copied().filter(|s| !reached(s, args.until)).collect();
                if waiting.is_empty() && !of.is_empty() {
                    return Ok(exit::OK);
                }
                let dead = |s: &&&StreamStatus| matches!(s.state.as_str(), "stopped" | "failed");
                if let Some(dead) = waiting.iter().find(dead) {
                    let why = dead
                        .error
                        .as_deref()
                        .map(|e| format!(": {}", clean(e)))
                        .unwrap_or_default();
                    out.line(&out.alarm(&format!(
                        "{} is {} and stays so{why}",
                        clean(&dead.name),
                        clean(&dead.state)
                    )))?;
                    return Ok(exit::NOT_YET);
                }
                last = waiting
                    .iter()
                    .map(|s| moving_line(s))
                    .collect::<Vec<_>>()
                    .join(", ");
            }
            Err(error @ ClientError::Unreachable { .. }) => {
                if !std::mem::replace(&mut silent, true) {
                    out.line(&format!("Waiting for {} to answer", link.at()))?;
                }
                if args.timeout.is_some_and(|t| started.elapsed() >= t) {
                    return Err(error);
                }
            }
            Err(other) => return Err(other),
        }
        if let Some(timeout) = args.timeout.filter(|t| started.elapsed() >= *t) {
            let state = if args.until == Until::Running {
                "running"
            } else {
                "paused"
            };
            let timeout = humantime::format_duration(timeout);
            out.line(&out.alarm(&format!("Not {state} within {timeout}: {last}")))?;
            return Ok(exit::NOT_YET);
        }
        look_again(started).await;
    }
}

fn reached(stream: &StreamStatus, until: Until) -> bool {
    match until {
        Until::Running => stream.state == "running",
        // A gate that serves on while held is as quiet as it gets when nothing is in flight.
        Until::Paused => stream.state == "paused" || stream.in_flight == 0 && stands_still(stream),
    }
}

/// The streams that are meant: those named, or all.
fn chosen<'s>(status: &'s Status, names: &[&str]) -> Vec<&'s StreamStatus> {
    let streams = status.streams.iter();
    streams
        .filter(|s| names.is_empty() || names.contains(&s.name.as_str()))
        .collect()
}

fn check_names(status: &Status, names: &[&str]) -> Result<(), ClientError> {
    let known = || status.streams.iter().map(|s| s.name.as_str());
    match names.iter().find(|name| !known().any(|k| k == **name)) {
        Some(name) => Err(ClientError::Usage(unknown(name, known()))),
        None => Ok(()),
    }
}

fn unknown<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    clean(&format!(
        "no stream or gate is named \"{name}\"{}",
        suggestion(name, known)
    ))
}

/// Sends the same to every stream that is named, or once for all.
async fn each<'n>(
    link: &Link,
    on: &'n StreamArgs,
    verb: &str,
    body: Option<Value>,
) -> Vec<(Option<&'n str>, Result<Answer, ClientError>)> {
    let body = body.as_ref();
    if on.streams.is_empty() {
        return vec![(None, link.ask(Method::POST, &[verb], &[], body, PROMPT).await)];
    }
    let mut answers = Vec::new();
    for name in &on.streams {
        let path = ["streams", name.as_str(), verb];
        let answer = if matches!(name.as_str(), "" | "." | "..") {
            // No path can carry these.
            Err(ClientError::Usage(unknown(name, [])))
        } else {
            link.ask(Method::POST, &path, &[], body, PROMPT).await
        };
        answers.push((Some(name.as_str()), answer));
    }
    answers
}

fn expect_ok(link: &Link, answer: Answer, name: Option<&str>) -> Result<(), ClientError> {
    match answer.status {
        StatusCode::OK => said(link, &answer),
        _ => Err(refusal_of(link, &answer, name)),
    }
}

/// Something else than tidegate can say 200 to anything; nobody is to believe that it holds or moves because of that.
fn said(link: &Link, answer: &Answer) -> Result<(), ClientError> {
    match answer.sentence() {
        Some(_) => Ok(()),
        None => Err(link.strange("it answers 200 with something else than expected")),
    }
}

/// Without a stream in the path, 404 speaks of the path.
fn refusal_of(link: &Link, answer: &Answer, name: Option<&str>) -> ClientError {
    match answer.status {
        StatusCode::NOT_FOUND if name.is_none() => link.strange(&not_found(answer)),
        _ => link.refusal(answer),
    }
}

fn not_found(answer: &Answer) -> String {
    let why = answer.sentence().map(|s| format!(": {s}")).unwrap_or_default();
    format!("it answers 404{why}")
}

/// A name that is not known is answered with those that are, if they may be seen.
pub(super) async fn with_known_names(link: &Link, name: Option<&str>, error: ClientError) -> ClientError {
    match (name, &error) {
        (Some(name), ClientError::Answer { status: 404, .. }) => match link
            .get::<Status>("status", PROMPT)
            .await
        {
            Ok(status) => ClientError::Usage(unknown(name, status.streams.iter().map(|s| s.name.as_str()))),
            Err(_) => error,
        },
        _ => error,
    }
}
