//! `tidegate history`: what happened, a line each.
use super::act::PROMPT;
use super::link::{ClientError, Link};
use super::text::{Out, clean};
use super::watch::event_line;
use crate::cli::{HistoryArgs, exit};
use reqwest::{Method, StatusCode};
use tidegate_admin::{Event, History};

pub(super) async fn history(link: &Link, args: &HistoryArgs, out: &mut Out<'_>) -> Result<u8, ClientError> {
    let mut query = vec![("limit", args.limit.to_string())];
    if let Some(since) = &args.since {
        query.push(("since", since.clone()));
    }
    let answer = link.ask(Method::GET, &["history"], &query, None, PROMPT).await?;
    match answer.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(link.strange("it answers 404: older than this command?")),
        _ => return Err(link.refusal(&answer)),
    }
    let history: History = link.read(&answer)?;
    if args.json {
        out.raw(&answer.bytes)?;
        if !answer.bytes.ends_with(b"\n") {
            out.raw(b"\n")?;
        }
        return Ok(exit::OK);
    }
    if history.more {
        let line = format!("(only the newest {}: ask for more with --limit)", args.limit);
        out.line(&out.dim(&line))?;
    }
    let mut day = String::new();
    for event in &history.entries {
        let date = event.time.split('T').next().unwrap_or_default();
        if day != date {
            date.clone_into(&mut day);
            out.line(&out.dim(&clean(&day)))?;
        }
        out.line(&told(out, event))?;
    }
    if history.entries.is_empty() {
        out.line("Nothing happened in that time.")?;
    }
    if !history.kept {
        out.line(
            &out.dim("(since the process started: it forgets with the process, as no state_dir is set)"),
        )?;
    }
    if history.unreadable > 0 {
        let line = format!("{} entries cannot be read", history.unreadable);
        out.line(&out.alarm(&line))?;
    }
    Ok(exit::OK)
}

fn told(out: &Out<'_>, event: &Event) -> String {
    if let Some(line) = event_line(out, event) {
        return line;
    }
    let clock = super::watch::clock(&event.time);
    let reason = clean(event.reason.as_deref().unwrap_or_default());
    match (event.kind.as_str(), &event.switch) {
        ("reading", Some(switch)) => {
            let version = event
                .version
                .as_ref()
                .map(|v| format!(" (version {})", clean(v)))
                .unwrap_or_default();
            format!("{clock}  switch {}: {reason}{version}", clean(switch))
        }
        (kind, _) => format!("{clock}  {}: {reason}", clean(kind)),
    }
}
