//! `tidegate status`, of one process or of many.
use super::act::PROMPT;
use super::link::{ClientError, Link};
use super::table;
use super::text::{Out, clean};
use crate::cli::{Global, StatusArgs, exit};
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use tidegate_admin::Status;

/// One process.
pub(super) async fn status(link: &Link, args: &StatusArgs, out: &mut Out<'_>) -> Result<u8, ClientError> {
    let answer = link.ask(Method::GET, &["status"], &[], None, PROMPT).await?;
    match answer.status {
        StatusCode::OK if args.json => {
            // As it comes, but only if it is a status: a script should not read a login page.
            if link.read::<serde_json::Value>(&answer)?.get("streams").is_none() {
                return Err(link.strange("it answers 200 with something else than expected"));
            }
            out.raw(&answer.bytes)?;
            if !answer.bytes.ends_with(b"\n") {
                out.raw(b"\n")?;
            }
        }
        StatusCode::OK => table::print(out, &link.read::<Status>(&answer)?)?,
        StatusCode::NOT_FOUND => return Err(link.strange("it answers 404")),
        _ => return Err(link.refusal(&answer)),
    }
    Ok(exit::OK)
}

/// Many processes at once: a line each, and how many are paused. The same token goes to each.
pub(super) async fn fleet(global: &Global, args: &StatusArgs, out: &mut Out<'_>) -> Result<u8, ClientError> {
    let token = global.token_file.as_deref();
    let links: Vec<Link> = args
        .fleet
        .iter()
        .map(|url| Link::new(url, token, global.ca_file.as_deref()))
        .collect::<Result<_, _>>()?;
    let answers = join_all(links.iter().map(|link| link.get::<Status>("status", PROMPT))).await;
    if args.json {
        let all = links.iter().zip(&answers).map(|(link, answer)| match answer {
            Ok(status) => serde_json::json!({ "url": link.at(), "status": status }),
            Err(error) => serde_json::json!({ "url": link.at(), "error": first_line(error) }),
        });
        let text = serde_json::Value::Array(all.collect()).to_string();
        out.line(&text)?;
    }
    let (mut paused, mut code) = (0, exit::OK);
    for (link, answer) in links.iter().zip(&answers) {
        let line = match answer {
            Ok(status) => {
                let still = is_paused(status);
                paused += usize::from(still);
                let streams: Vec<String> = status
                    .streams
                    .iter()
                    .map(|s| format!("{} {}", clean(&s.name), out.word(&clean(&s.state))))
                    .collect();
                format!("{}  {}", link.at(), streams.join(", "))
            }
            Err(error) => {
                code = code.max(error.code());
                out.alarm(&format!("{}  {}", link.at(), first_line(error)))
            }
        };
        if !args.json {
            out.line(&line)?;
        }
    }
    if !args.json {
        out.line(&format!("{paused} of {} paused", links.len()))?;
    }
    Ok(code)
}

/// Every stream of the process is proven paused. A gate that serves on while held counts as long as it is held, a
/// stream that has ended does not count.
fn is_paused(status: &Status) -> bool {
    let mut counted = status.streams.iter().filter(|s| s.state != "stopped").peekable();
    counted.peek().is_some() && counted.all(|s| matches!(s.state.as_str(), "paused" | "hiatus"))
}

fn first_line(error: &ClientError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
