//! What has to fit together: names, addresses, rights, and what one key demands of another.
use super::problem::{Report, suggestion};
use super::raw::{RawControl, RawObserve, RawStateFile, RawToken, RawTop, Span};
use super::read::read;
use super::streams;
use super::tree::{Node, Path, Value};
use super::{Config, Control, GateEntry, Observe, Right, StateFile, StreamEntry, SwitchEntry, Token};
use std::net::Ipv4Addr;
use std::time::Duration;
use tidegate_gate::Name;
use tidegate_http::Address;
use tidegate_providers::SwitchConfig;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What could be read of each part, with its path. A part is missing only if something wrong with it was reported;
/// where something was reported, a part may hold a value that nobody wrote.
pub(super) struct Sections {
    pub(super) top: Option<Top>,
    /// What could be read of it, if it is there.
    state_file: Option<Option<StateFile>>,
    pub(super) control: Option<Control>,
    observe: Option<Observe>,
    pub(super) switches: Vec<(Path, Option<SwitchEntry>)>,
    pub(super) streams: Vec<(Path, Option<StreamEntry>)>,
    gates: Vec<(Path, Option<GateEntry>)>,
}

pub(super) struct Top {
    shutdown_grace: Duration,
    drain_delay: Duration,
    pub(super) state_dir: Option<std::path::PathBuf>,
}

impl Sections {
    pub(super) fn into_config(self) -> Option<Config> {
        fn all<T>(parts: Vec<(Path, Option<T>)>) -> Option<Vec<T>> {
            parts.into_iter().map(|(_, part)| part).collect()
        }
        let top = self.top?;
        let state_file = match self.state_file {
            Some(given) => Some(given?),
            None => None,
        };
        Some(Config {
            shutdown_grace: top.shutdown_grace,
            drain_delay: top.drain_delay,
            state_dir: top.state_dir,
            state_file,
            control: self.control?,
            observe: self.observe?,
            switches: all(self.switches)?,
            streams: all(self.streams)?,
            gates: all(self.gates)?,
        })
    }
}

/// Reads and checks every part, and reports all that is wrong.
pub(super) fn sections(report: &mut Report<'_>) -> Sections {
    let top = top(report);
    let streams = elements_in(report, &Path::default(), "stream");
    let gates = elements_in(report, &Path::default(), "gate");
    let switches = elements_in(report, &Path::default(), "switch");
    let published = elements_of(report, &Path::top("state_file").key("publish"));
    let names = names(report, &streams, &gates, &published);
    if streams.is_empty() && gates.is_empty() && published.is_empty() {
        report.at(
            &Path::default(),
            "there is nothing to pause: expected at least one [[stream]] or [[gate]], or a name in [state_file] publish",
        );
    }
    let mut ports = Ports::default();
    let control = control(report, &mut ports);
    let observe = observe(report, &mut ports);
    Sections {
        top,
        state_file: state_file(report),
        control,
        observe,
        switches: switches
            .into_iter()
            .map(|path| (path.clone(), switch(report, &path, &names)))
            .collect(),
        streams: streams::streams(report, streams, &mut ports),
        gates: gates
            .into_iter()
            .map(|path| (path.clone(), gate(report, &path, &mut ports)))
            .collect(),
    }
}

/// Unless it is given: the default `shutdown_grace` leaves five times as much.
const DRAIN_DELAY: Duration = Duration::from_secs(5);

fn top(report: &mut Report<'_>) -> Option<Top> {
    let raw: RawTop = read(report, &Path::default())?;
    let shutdown_grace = span(raw.shutdown_grace, 25);
    // Whoever shortens the grace alone did not ask for a delay that leaves no time to drain.
    let usual = DRAIN_DELAY.min(shutdown_grace / 5);
    let drain_delay = raw.drain_delay.map_or(usual, |given| given.0);
    if shutdown_grace.is_zero() {
        report.at(&Path::top("shutdown_grace"), "expected more than 0s");
    } else if drain_delay >= shutdown_grace {
        report.at(
            &Path::top("drain_delay"),
            format!(
                "drain_delay ({}) is part of shutdown_grace ({}) and has to be shorter",
                humantime::format_duration(drain_delay),
                humantime::format_duration(shutdown_grace),
            ),
        );
    }
    if raw.state_dir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
        report.at(
            &Path::top("state_dir"),
            "expected an absolute path: after a restart the working directory may be another",
        );
    }
    Some(Top {
        shutdown_grace,
        drain_delay,
        state_dir: raw.state_dir,
    })
}

fn span(given: Option<Span>, default_seconds: u64) -> Duration {
    given.map_or(Duration::from_secs(default_seconds), |span| span.0)
}

/// The names of all streams, gates and what is only published, and where they are written. Those of parts that are
/// wrong count too: a switch that names one of them is right.
struct Names(Vec<(Name, Path)>);

impl Names {
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| &**known == name)
    }
}

fn names(report: &mut Report<'_>, streams: &[Path], gates: &[Path], published: &[Path]) -> Names {
    let mut names = Names(Vec::new());
    let named = streams.iter().chain(gates).map(|path| path.key("name"));
    for at in named.chain(published.iter().cloned()) {
        let Some(name) = report.node(&at).and_then(Node::text).map(Name::from) else {
            continue; // reported when the part is read
        };
        check_name(report, &at, &name);
        match names.0.iter().find(|(known, _)| *known == name) {
            Some((_, other)) => {
                let line = report.line(other);
                report.at(
                    &at,
                    format!(
                        "the name is taken by a stream or gate in line {line}; they share one name space"
                    ),
                );
            }
            None => names.0.push((name, at)),
        }
    }
    names
}

/// Names go into URLs, metrics, file names and terminals.
fn check_name(report: &mut Report<'_>, at: &Path, name: &str) {
    let fits = name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if !fits {
        let found = found(report, at);
        report.at(
            at,
            format!("expected a name of at most 64 letters, digits, \".\", \"_\" and \"-\" that begins with a letter or digit, found {found}"),
        );
    }
}

pub(super) fn found(report: &Report<'_>, at: &Path) -> String {
    report
        .node(at)
        .map_or_else(|| "nothing".to_owned(), |n| n.shown(at))
}

/// Addresses that are listened on, and by which key.
#[derive(Default)]
pub(super) struct Ports(Vec<(Address, Path)>);

impl Ports {
    pub(super) fn take(&mut self, report: &mut Report<'_>, at: Path, address: &Address) {
        if let Some((_, other)) = self.0.iter().find(|(taken, _)| clash(taken, address)) {
            // A default stands in no line.
            let line = match report.node(other) {
                Some(_) => format!("in line {}", report.line(other)),
                None => "by default".to_owned(),
            };
            let other = report.root().name(other);
            report.at(&at, format!("{other} listens there already ({line})"));
            return;
        }
        self.0.push((address.clone(), at));
    }
}

fn clash(a: &Address, b: &Address) -> bool {
    match (a, b) {
        (Address::Tcp(a), Address::Tcp(b)) => {
            let everywhere = a.ip().is_unspecified() || b.ip().is_unspecified();
            a.port() != 0
                && a.port() == b.port()
                && (everywhere || a.ip().to_canonical() == b.ip().to_canonical())
        }
        (Address::Unix(a), Address::Unix(b)) => a == b,
        _ => false,
    }
}

fn loopback(port: u16) -> Address {
    Address::Tcp((Ipv4Addr::LOCALHOST, port).into())
}

/// Reads a table that need not be there.
fn read_or_default<T: serde::de::DeserializeOwned + Default>(
    report: &mut Report<'_>,
    path: &Path,
) -> Option<T> {
    match report.node(path) {
        None => Some(T::default()),
        Some(_) => read(report, path),
    }
}

fn control(report: &mut Report<'_>, ports: &mut Ports) -> Option<Control> {
    let path = Path::top("control");
    let token_paths = elements_in(report, &path, "token");
    let tokens = tokens(report, &token_paths);
    let raw: RawControl = read_or_default(report, &path)?;
    let listen = raw.listen.map_or_else(|| loopback(9470), |l| l.0);
    ports.take(report, path.key("listen"), &listen);
    if !listen.is_loopback() && (raw.tls.is_none() || token_paths.is_empty()) {
        report.at(
            &path.key("listen"),
            "control may listen beyond loopback only with tls and at least one [[control.token]]: whoever reaches it can stop your streams",
        );
    }
    if raw.tls.is_some() && matches!(listen, Address::Unix(_)) {
        report.at(
            &path.key("tls"),
            "a Unix socket takes no tls; its file mode 0600 guards it",
        );
    }
    let base_path = match base_path(raw.base_path.as_deref().unwrap_or_default()) {
        Ok(base) => base,
        Err(expected) => {
            let at = path.key("base_path");
            let found = found(report, &at);
            report.at(&at, format!("expected {expected}, found {found}"));
            String::new()
        }
    };
    for (i, host) in raw.hosts.iter().enumerate() {
        let fits = !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if !fits {
            let at = path.key("hosts").index(i);
            let found = found(report, &at);
            report.at(
                &at,
                format!("expected a host name without scheme and port, found {found}"),
            );
        }
    }
    Some(Control {
        listen,
        base_path,
        tls: raw.tls,
        tokens: tokens?,
        hosts: raw.hosts,
    })
}

/// The elements of the list at `path`, if one is there; what else stands there is reported when its table is read.
fn elements_of(report: &Report<'_>, path: &Path) -> Vec<Path> {
    match report.node(path).map(|node| &node.value) {
        Some(Value::List(list)) => list.iter().map(|(i, _)| path.index(*i)).collect(),
        _ => Vec::new(),
    }
}

/// The elements of `[[key]]` in the table at `path`.
pub(super) fn elements_in(report: &mut Report<'_>, path: &Path, key: &str) -> Vec<Path> {
    let at = path.key(key);
    match report.node(&at).map(|node| &node.value) {
        None => Vec::new(),
        Some(Value::List(list)) => list.iter().map(|(i, _)| at.index(*i)).collect(),
        Some(_) => {
            let table = report.root().name(&at);
            report.at(
                &at,
                format!("expected [[{table}]] with two brackets, once for each {key}"),
            );
            Vec::new()
        }
    }
}

fn tokens(report: &mut Report<'_>, paths: &[Path]) -> Option<Vec<Token>> {
    let mut seen: Vec<(String, Path)> = Vec::new();
    let mut tokens = Some(Vec::new());
    for path in paths {
        let Some(raw) = read::<RawToken>(report, path) else {
            tokens = None;
            continue;
        };
        let at = path.key("name");
        check_name(report, &at, &raw.name);
        match seen.iter().find(|(name, _)| *name == raw.name) {
            Some((_, other)) => {
                let line = report.line(other);
                report.at(
                    &at,
                    format!(
                        "the name is taken by the token in line {line}; the audit could not tell them apart"
                    ),
                );
            }
            None => seen.push((raw.name.clone(), at)),
        }
        let given = |node: &Node| matches!(&node.value, Value::List(list) if !list.is_empty());
        if !report.node(&path.key("allow")).is_some_and(given) {
            report.at(
                &path.key("allow"),
                "expected at least one of read, pause, resume, override",
            );
        }
        let mut allow: Vec<Right> = Vec::new();
        for right in raw.allow {
            if !allow.contains(&right) {
                allow.push(right);
            }
        }
        if let Some(tokens) = &mut tokens {
            tokens.push(Token {
                name: raw.name,
                file: raw.file,
                allow,
            });
        }
    }
    tokens
}

/// `ui/stream`, `/ui/stream` and `/ui/stream/` are `/ui/stream`; Flowtide's own example has no leading slash.
fn base_path(text: &str) -> Result<String, &'static str> {
    let inner = text.trim_matches('/');
    if inner.is_empty() {
        return Ok(String::new());
    }
    let fits = inner.split('/').all(|segment| {
        !matches!(segment, "" | "." | "..")
            && segment
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '~'))
    });
    if fits {
        Ok(format!("/{inner}"))
    } else {
        Err("a path such as \"/ui/stream\" of letters, digits, \".\", \"_\", \"-\" and \"~\"")
    }
}

fn observe(report: &mut Report<'_>, ports: &mut Ports) -> Option<Observe> {
    let path = Path::top("observe");
    let raw: RawObserve = read_or_default(report, &path)?;
    let listen = raw.listen.map_or_else(|| loopback(9471), |l| l.0);
    ports.take(report, path.key("listen"), &listen);
    Some(Observe {
        listen,
        ready_while_paused: raw.ready_while_paused.unwrap_or(true),
    })
}

fn state_file(report: &mut Report<'_>) -> Option<Option<StateFile>> {
    let path = Path::top("state_file");
    report.node(&path)?;
    let Some(raw) = read::<RawStateFile>(report, &path) else {
        return Some(None);
    };
    if !raw.path.is_absolute() || raw.path.file_name().is_none() {
        report.at(
            &path.key("path"),
            "expected the absolute path of a file: its readers run elsewhere",
        );
    }
    Some(Some(StateFile {
        path: raw.path,
        publish: raw.publish.iter().map(|name| Name::from(name.as_str())).collect(),
    }))
}

fn switch(report: &mut Report<'_>, path: &Path, names: &Names) -> Option<SwitchEntry> {
    // Names and the streams they hold are judged even where the rest of the switch cannot be read.
    let at = path.key("name");
    if let Some(name) = report.node(&at).and_then(Node::text) {
        check_name(report, &at, name);
        let first = report.root().entry("switch").and_then(|e| match &e.node.value {
            Value::List(list) => list.iter().find(|(_, other)| {
                other
                    .as_table()
                    .and_then(|t| t.entry("name"))
                    .and_then(|e| e.node.text())
                    == Some(name)
            }),
            _ => None,
        });
        if let Some((index, _)) = first {
            let other = Path::top("switch").index(*index);
            if other != *path {
                let line = report.line(&other.key("name"));
                report.at(
                    &at,
                    format!("the name is taken by the switch in line {line}; each holds in its own name"),
                );
            }
        }
    }
    let streams = held(report, &path.key("streams"), names);
    let at = path.key("at_start");
    let last = report.node(&at).and_then(Node::text) == Some("last");
    if last && report.root().entry("state_dir").is_none() {
        report.at(
            &at,
            "\"last\" needs state_dir: without it nothing is remembered over a restart",
        );
    }
    let config: SwitchConfig = read(report, path)?;
    if let Err(error) = config.provider() {
        report.at(path, error.why.to_string());
    }
    timing(report, path, &config);
    if config.key.split(':').any(|part| part.trim().is_empty()) {
        report.at(
            &path.key("key"),
            "expected the name of a field, or names with \":\" between them",
        );
    }
    if let Some(vault) = &config.vault {
        store_address(
            report,
            &path.key("vault").key("address"),
            &vault.address,
            vault.allow_plaintext,
        );
    }
    Some(SwitchEntry { config, streams })
}

/// The streams that a switch names; reports those that there are not.
fn held(report: &mut Report<'_>, path: &Path, names: &Names) -> Vec<Name> {
    let Some(Value::List(list)) = report.node(path).map(|n| &n.value) else {
        return Vec::new(); // reported when the switch is read
    };
    if list.is_empty() {
        report.at(path, "expected at least one name, or \"*\" for all streams and gates: a switch that holds nothing is a button without a wire");
    }
    let mut streams: Vec<Name> = Vec::new();
    for (i, item) in list {
        let (Some(name), Some(written)) = (item.text(), item.written()) else {
            continue;
        };
        let at = path.index(*i);
        if name == "*" {
            if list.len() > 1 {
                report.at(&at, "\"*\" means all streams and gates and stands alone");
            }
            return names.0.iter().map(|(name, _)| name.clone()).collect();
        } else if streams.iter().any(|known| **known == *name) {
            report.at(&at, "the name is given twice");
        } else if names.has(name) {
            streams.push(name.into());
        } else {
            let known: Vec<String> = names
                .0
                .iter()
                .filter_map(|(_, at)| report.node(at).and_then(Node::written).map(str::to_owned))
                .collect();
            let found = item.shown(&at);
            let near = suggestion(written, known.iter().map(String::as_str));
            report.at(&at, format!("no stream or gate is named {found}{near}"));
        }
    }
    streams
}

fn timing(report: &mut Report<'_>, path: &Path, config: &SwitchConfig) {
    let interval = config
        .interval
        .or_else(|| config.provider().ok().map(|p| p.interval()))
        .unwrap_or_default();
    for (key, value, most) in [
        ("interval", interval, DAY),
        ("timeout", config.timeout, Duration::from_secs(3600)),
        ("retry_max", config.retry_max, DAY),
        ("max_stale", config.max_stale, 366 * DAY),
    ] {
        if value > most {
            report.at(
                &path.key(key),
                format!("expected at most {}", humantime::format_duration(most)),
            );
        }
    }
    if config.timeout.is_zero() {
        report.at(
            &path.key("timeout"),
            "expected more than 0s: one read takes a round trip",
        );
    }
    if config.max_stale < interval.saturating_add(config.timeout) {
        report.at(
            &path.key("max_stale"),
            format!(
                "expected at least interval + timeout ({}): with less, every reading is stale before the next one is due",
                humantime::format_duration(interval.saturating_add(config.timeout))
            ),
        );
    }
}

/// A URL of scheme, host and port, and perhaps a path; with a query only where it may have one.
pub(super) fn url(
    report: &mut Report<'_>,
    at: &Path,
    text: &str,
    example: &str,
    query: bool,
) -> Option<reqwest::Url> {
    let url = reqwest::Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some_and(|h| !h.is_empty())
            && (query || url.query().is_none())
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    });
    if url.is_none() {
        let found = found(report, at);
        report.at(at, format!("expected a URL such as \"{example}\", found {found}"));
    }
    url
}

/// As it stands in a request line, without a query.
pub(super) fn is_raw_path(text: &str) -> bool {
    text.starts_with('/')
        && text
            .chars()
            .all(|c| c.is_ascii_graphic() && !matches!(c, '?' | '#'))
}

fn is_loopback(url: &reqwest::Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback()),
        None => false,
    }
}

fn store_address(report: &mut Report<'_>, at: &Path, text: &str, allow_plaintext: bool) {
    let Some(url) = url(report, at, text, "https://vault.internal:8200", false) else {
        return;
    };
    if url.scheme() == "http" && !is_loopback(&url) && !allow_plaintext {
        report.at(
            at,
            "http:// would send the token in clear text to another machine; expected https://, or allow_plaintext = true beside it",
        );
    }
}

fn gate(report: &mut Report<'_>, path: &Path, ports: &mut Ports) -> Option<GateEntry> {
    let gate: GateEntry = read(report, path)?;
    ports.take(report, path.key("listen"), &gate.listen);
    let at = path.key("upstream");
    let upstream = url(report, &at, &gate.upstream, "http://127.0.0.1:8081", false);
    if upstream.is_some_and(|url| url.scheme() != "http" || url.path() != "/") {
        let found = found(report, &at);
        report.at(
            &at,
            format!("expected http://, host and port only, found {found}: the app is beside the gate, so without TLS, and paths are forwarded as they come"),
        );
    }
    if gate.max_wait.is_zero() || gate.max_wait > DAY {
        report.at(
            &path.key("max_wait"),
            "expected more than 0s and at most 1day; on_hold = \"refuse\" lets nobody wait",
        );
    }
    if gate.max_waiting == 0 {
        report.at(
            &path.key("max_waiting"),
            "expected 1 or more; on_hold = \"refuse\" lets nobody wait",
        );
    }
    for (i, bypass) in gate.bypass.iter().enumerate() {
        if !is_raw_path(bypass) {
            let at = path.key("bypass").index(i);
            let found = found(report, &at);
            report.at(
                &at,
                format!(
                    "expected a path as it stands in the request line, such as \"/healthz\", found {found}"
                ),
            );
        }
    }
    Some(gate)
}
