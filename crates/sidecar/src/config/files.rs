//! What a configuration refers to outside itself: token files, certificates, what a provider needs to be built.
use super::Token;
use super::problem::Report;
use super::tree::{Node, Path, Value};
use super::validate::Sections;
use std::net::Ipv4Addr;
use std::time::{Instant, SystemTime};
use tidegate_admin::{AdminError, ControlOptions};
use tidegate_gate::{Clock, Holds, Moment};
use tidegate_http::{Address, Tls};
use tidegate_runtime::{BadBroker, BadTarget, BuildError};

/// Reports what is missing or cannot be used. Nothing that was read is shown.
pub(super) fn check(sections: &Sections, report: &mut Report<'_>) {
    if let Some(dir) = sections.top.as_ref().and_then(|top| top.state_dir.as_ref())
        && std::fs::metadata(dir).is_ok_and(|meta| !meta.is_dir())
    {
        report.at(&Path::top("state_dir"), "expected a directory, found a file");
    }
    if let Some(control) = &sections.control {
        let path = Path::top("control");
        if let Some(tls) = &control.tls
            && let Err(error) = Tls::load(&tls.cert_file, &tls.key_file)
        {
            report.at(&path.key("tls"), error.to_string());
        }
        tokens(&control.tokens, &path.key("token"), report);
    }
    for (path, switch) in &sections.switches {
        let Some(switch) = switch else { continue };
        if report.has_any_under(path) {
            continue; // what is wrong with it is said already, and building it would say it again
        }
        if let Err(error) = switch.config.build(switch.streams.clone()) {
            let at = find(report.node(path), path, &error.key).unwrap_or_else(|| path.clone());
            report.at(&at, error.why.to_string());
        }
    }
    // A board that nobody looks at: building a stream opens nothing, and takes a name on a board.
    let holds = Holds::new(Clock::new(|| Moment {
        wall: SystemTime::now(),
        mono: Instant::now(),
    }));
    for (path, stream) in &sections.streams {
        let Some(stream) = stream else { continue };
        if report.has_any_under(path) {
            continue;
        }
        match tidegate_runtime::build(&stream.config, &holds, None) {
            Ok(_) | Err(BuildError::NameTaken(_)) => {}
            Err(BuildError::Target { source, .. }) => {
                let sink = path.key("sink");
                match &source {
                    BadTarget::CaFile { .. } => report.at(&sink.key("ca_file"), source.to_string()),
                    BadTarget::Header(name) | BadTarget::OwnHeader(name) => {
                        report.at(&sink.key("headers").key(name), source.to_string());
                    }
                    _ => report.quoting(&sink.key("url"), source.to_string()),
                }
            }
            Err(BuildError::Broker { part, source, .. }) => {
                let key = match source {
                    BadBroker::Address { .. } => "url",
                    BadBroker::Option(_) => "options",
                };
                report.quoting(&path.key(part).key(key), source.to_string());
            }
            Err(error) => report.quoting(path, error.to_string()),
        }
    }
}

fn tokens(tokens: &[Token], path: &Path, report: &mut Report<'_>) {
    let options = ControlOptions {
        tokens: tokens.to_vec(),
        ..ControlOptions::default()
    };
    let of = |name: &str| {
        let index = tokens
            .iter()
            .position(|token| token.name == name)
            .unwrap_or_default();
        path.index(index)
    };
    for error in options.check(&Address::Tcp((Ipv4Addr::LOCALHOST, 0).into())) {
        match error {
            AdminError::TokenFile { name, error } => report.at(&of(&name).key("file"), error.to_string()),
            AdminError::SameToken(first, second) => {
                let line = report.line(&of(&first).key("file"));
                report.at(
                    &of(&second).key("file"),
                    format!("holds the same token as the file in line {line}; each needs its own, or nobody can say who called"),
                );
            }
            // Said by now, with the line.
            AdminError::Exposed { .. }
            | AdminError::BasePath(_)
            | AdminError::TokenName(_)
            | AdminError::AllowsNothing(_) => {}
        }
    }
}

/// The first key of that name in a part, nearest to the top.
fn find(node: Option<&Node>, path: &Path, key: &str) -> Option<Path> {
    let Value::Table(table) = &node?.value else {
        return None;
    };
    if let Some((first, rest)) = key.split_once('.')
        && let Some(entry) = table.entry(first)
    {
        return find(Some(&entry.node), &path.key(first), rest);
    }
    if table.entry(key).is_some() {
        return Some(path.key(key));
    }
    table
        .0
        .iter()
        .find_map(|entry| find(Some(&entry.node), &path.key(&entry.key), key))
}
