//! What the configuration accepts, and what it says of what it does not.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use std::env::VarError;
use std::time::Duration;
use tidegate::config::{self, Config, ConfigErrors, OnHold, Right};
use tidegate_http::Address;

const EXAMPLE: &str = include_str!("../../../deploy/config.example.toml");

const STREAM: &str =
    "[[stream]]\nname = \"orders\"\nsource = { type = \"stdin\" }\nsink = { type = \"stdout\" }\n";

fn env(name: &str) -> Result<String, VarError> {
    match name {
        "HOST" => Ok("vault.internal".into()),
        "SECRET" => Ok("hunter2-hunter2".into()),
        "QUOTED" => Ok("hunter2\"\n\\hunter2".into()),
        _ => Err(VarError::NotPresent),
    }
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    config::parse(text, "t.toml", &env)
}

fn ok(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}\n--- in\n{text}"))
}

fn lines(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err("this configuration is wrong");
    errors.problems.iter().map(ToString::to_string).collect()
}

/// The one problem of a text after a stream, without file and line.
fn problem(text: &str) -> String {
    let lines = lines(&format!("{STREAM}{text}"));
    assert_eq!(lines.len(), 1, "{lines:#?}\n--- in\n{text}");
    lines[0].splitn(4, ':').nth(3).unwrap().trim().to_owned()
}

#[test]
fn the_smallest_configuration_has_the_documented_defaults() {
    let config = ok(STREAM);
    assert_eq!(config.shutdown_grace, Duration::from_secs(25));
    assert_eq!(config.drain_delay, Duration::from_secs(5));
    assert_eq!(config.state_dir, None);
    assert_eq!(config.control.listen.to_string(), "127.0.0.1:9470");
    assert_eq!(config.observe.listen.to_string(), "127.0.0.1:9471");
    assert!(
        config.observe.ready_while_paused && config.control.tokens.is_empty() && config.control.tls.is_none()
    );
    assert!(config.switches.is_empty() && config.gates.is_empty());

    let config = ok(&format!(
        "{STREAM}[[switch]]\nname = \"ops\"\nstreams = [\"*\"]\nfile = {{ path = \"/x\" }}\n\
         [[gate]]\nname = \"app\"\nlisten = \"127.0.0.1:0\"\nupstream = \"http://127.0.0.1:1\"\n"
    ));
    let names: Vec<&str> = config.switches[0].streams.iter().map(|n| &**n).collect();
    assert_eq!(names, ["orders", "app"], "* stands for streams and gates");
    let switch = &config.switches[0].config;
    assert_eq!(
        (switch.timeout, switch.retry_max),
        (Duration::from_secs(2), Duration::from_secs(5))
    );
    assert_eq!(
        (&*switch.key, switch.max_stale),
        ("IsPaused", Duration::from_secs(300))
    );
    let gate = &config.gates[0];
    assert_eq!(
        (gate.on_hold, gate.max_waiting, gate.max_wait),
        (OnHold::Serve, 1024, Duration::from_secs(30))
    );
}

#[test]
fn what_is_only_published_can_be_held_and_shares_the_name_space() {
    let published = "[state_file]\npath = \"/run/t/state.json\"\npublish = [\"reports\"]\n";
    let config = ok(&format!(
        "{published}[[switch]]\nname = \"ops\"\nstreams = [\"*\"]\nfile = {{ path = \"/x\" }}\n"
    ));
    assert_eq!(&*config.switches[0].streams[0], "reports");
    assert_eq!(config.names().collect::<Vec<_>>(), ["reports"]);
    assert!(
        problem(&published.replace("reports", "orders"))
            .contains("the name is taken by a stream or gate in line 2")
    );
    assert!(problem(&published.replace("reports", "no name")).contains("expected a name of at most 64"));
    assert!(problem(&published.replace("/run/t/", "")).contains("expected the absolute path of a file"));
    assert!(lines("[state_file]\npath = \"/run/t/state.json\"\n")[0].contains("there is nothing to pause"));
    assert_eq!(ok(STREAM).state_file, None);
}

#[test]
fn the_example_loads() {
    let config = ok(EXAMPLE);
    assert_eq!(config.control.tokens[0].allow, [Right::Read, Right::Pause]);
    assert_eq!(config.gates[0].listen, "0.0.0.0:8080".parse::<Address>().unwrap());
    assert_eq!(
        config.names().collect::<Vec<_>>(),
        [
            "orders",
            "console",
            "webhooks",
            "shipments",
            "payments",
            "invoices",
            "app",
            "reports"
        ]
    );
}

#[test]
fn everything_wrong_is_reported_at_once_and_in_the_order_of_the_file() {
    let text = r#"shutdown_grace = 25
state_dri = "/x"
[control]
listen = "0.0.0.0:9470"
hosts = ["ok", "https://x"]
[[control.token]]
name = "on call"
file = "/t"
allow = ["reed"]
[observe]
listen = "0.0.0.0:9470"
[[switch]]
name = "ops"
streams = ["oders", "orders"]
interval = "50ms"
timeout = 3
at_start = "last"
intervall = "1s"
[switch.vault]
address = "http://vault:8200"
pth = "a"
kv = 3
auth = { method = "tokn" }
[[switch]]
name = "ops"
streams = []
file = { path = "/x" }
vault = { address = "https://v", path = "p", auth = { method = "token", env = "T" } }
[[stream]]
name = "orders"
[stream.source]
type = "file"
follow = "yes"
path = "/a"
[stream.sink]
type = "file"
path = 3
[[gate]]
name = "orders"
listen = "nowhere"
upstream = "127.0.0.1:80"
on_hold = "wait"
bypass = ["healthz"]
"#;
    insta::assert_snapshot!(lines(text).join("\n"));
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    assert_eq!(
        problem("[control]\nlistn = \"127.0.0.1:1\""),
        "control.listn: unknown key; did you mean \"listen\"?"
    );
    assert_eq!(
        problem("[observe]\ncolour = 1"),
        "observe.colour: unknown key; known here: listen, ready_while_paused"
    );
    assert_eq!(
        problem(
            "[[stream]]\nname = \"b\"\nsink = { type = \"stdout\" }\nsource = { type = \"file\", path = \"/a\", folow = true }"
        ),
        "stream[b].source.folow: unknown key; did you mean \"follow\"?"
    );
}

#[test]
fn each_demand_that_one_key_makes_of_another_is_checked() {
    let switch = |more: &str| {
        problem(&format!(
            "[[switch]]\nname = \"ops\"\nstreams = [\"*\"]\nfile = {{ path = \"/x\" }}\n{more}"
        ))
    };
    let vault = |more: &str| {
        problem(&format!(
            "[[switch]]\nname = \"ops\"\nstreams = [\"*\"]\n[switch.vault]\npath = \"p\"\nauth = {{ method = \"token\", env = \"T\" }}\n{more}"
        ))
    };
    let stage = |more: &str| {
        format!(
            "[[stream]]\nname = \"b\"\nsource = {{ type = \"file\", path = \"/a\" }}\nsink = {{ type = \"stdout\" }}\n\
             [[stream.stage]]\n{more}"
        )
    };
    let http = |source: &str, sink: &str| {
        let or = |text: &str, key: &str, default: &str| match text.starts_with(key) {
            true => text.to_owned(),
            false => format!("{default}\n{text}"),
        };
        format!(
            "[[stream]]\nname = \"b\"\n[stream.source]\ntype = \"http\"\n{}\n[stream.sink]\ntype = \"http\"\n{}",
            or(source, "listen", "listen = \"127.0.0.1:0\""),
            or(sink, "url", "url = \"http://h/?a=b\""),
        )
    };
    let table = [
        (
            problem("[control]\nlisten = \"0.0.0.0:1\""),
            "control.listen: control may listen beyond loopback only with tls",
        ),
        (
            problem("[control]\nlisten = \"unix:/x\"\ntls = { cert_file = \"/c\", key_file = \"/k\" }"),
            "control.tls: a Unix socket takes no tls",
        ),
        (
            problem("[control]\nbase_path = \"a//b\""),
            "control.base_path: expected a path such as \"/ui/stream\"",
        ),
        (
            problem("[control]\nbase_path = \"../x\""),
            "control.base_path: expected a path such as \"/ui/stream\"",
        ),
        (
            problem("[observe]\nlisten = \"127.0.0.1:9470\""),
            "observe.listen: control.listen listens there already (by default)",
        ),
        (
            problem("[observe]\nlisten = \"[::]:9470\""),
            "observe.listen: control.listen listens there already (by default)",
        ),
        (
            problem("[[control.token]]\nname = \"a\"\nfile = \"/f\"\nallow = []"),
            "control.token[a].allow: expected at least one of read, pause",
        ),
        (
            problem("[control.token]\nname = \"a\""),
            "control.token: expected [[control.token]] with two brackets",
        ),
        (
            problem("[switch]\nname = \"ops\""),
            "switch: expected [[switch]] with two brackets",
        ),
        (
            switch("at_start = \"last\""),
            "switch[ops].at_start: \"last\" needs state_dir",
        ),
        (
            switch("interval = \"99ms\""),
            "switch[ops].interval: expected an interval of 100ms at least, found \"99ms\"",
        ),
        (
            switch("interval = \"2days\"\nmax_stale = \"3days\""),
            "switch[ops].interval: expected at most 1day",
        ),
        (
            switch("max_stale = \"2s\""),
            "switch[ops].max_stale: expected at least interval + timeout (3s)",
        ),
        (
            switch("timeout = \"0s\""),
            "switch[ops].timeout: expected more than 0s",
        ),
        (
            switch("key = \"a::b\""),
            "switch[ops].key: expected the name of a field",
        ),
        (
            switch(
                "vault = { address = \"https://v\", path = \"p\", auth = { method = \"token\", env = \"T\" } }",
            ),
            "switch[ops]: expected exactly one of",
        ),
        (
            vault("address = \"http://10.0.0.1:8200\""),
            "switch[ops].vault.address: http:// would send the token in clear text",
        ),
        (
            vault("address = \"vault.internal\""),
            "switch[ops].vault.address: expected a URL such as \"https://vault.internal:8200\", found \"vault.internal\"",
        ),
        (
            problem("[[switch]]\nname = \"ops\"\nstreams = [\"*\"]"),
            "switch[ops]: expected exactly one of",
        ),
        (
            problem("[[switch]]\nname = \"ops\"\nstreams = [\"oders\"]\nfile = { path = \"/x\" }"),
            "switch[ops].streams[0]: no stream or gate is named \"oders\"; did you mean \"orders\"?",
        ),
        (
            problem("[[switch]]\nname = \"ops\"\nstreams = [\"*\", \"orders\"]\nfile = { path = \"/x\" }"),
            "switch[ops].streams[0]: \"*\" means all",
        ),
        (
            problem(
                "[[switch]]\nname = \"ops\"\nstreams = [\"orders\", \"orders\"]\nfile = { path = \"/x\" }",
            ),
            "switch[ops].streams[1]: the name is given twice",
        ),
        (
            problem("[[switch]]\nname = \"o p s\"\nstreams = [\"*\"]\nfile = { path = \"/x\" }"),
            "switch[o p s].name: expected a name",
        ),
        (
            problem(
                "[[stream]]\nname = \"orders\"\nsource = { type = \"file\", path = \"/a\" }\nsink = { type = \"stdout\" }",
            ),
            "stream[orders].name: the name is taken by a stream or gate in line 2",
        ),
        (
            problem("[[stream]]\nname = \"b\"\nsource = { type = \"stdin\" }\nsink = { type = \"stdout\" }"),
            "stream[b].source.type: the stream in line 3 reads standard input already",
        ),
        (
            problem(
                "[[stream]]\nname = \"b\"\nsource = { type = \"file\", path = \"/a\" }\nsink = { type = \"file\", path = \"/./a\" }",
            ),
            "stream[b].sink.path: this is the file that the stream reads",
        ),
        (
            problem(
                "[[stream]]\nname = \"b\"\ndead_letter = \"/d\"\nsource = { type = \"file\", path = \"/a\" }\nsink = { type = \"file\", path = \"/d\" }",
            ),
            "stream[b].dead_letter: stream[b].sink.path (line 9) writes that file already",
        ),
        (
            problem("[[gate]]\nname = \"g\"\nlisten = \"127.0.0.1:1\"\nupstream = \"http://h/x\""),
            "gate[g].upstream: expected http://, host and port only, found \"http://h/x\"",
        ),
        (
            problem(
                "[[gate]]\nname = \"g\"\nlisten = \"127.0.0.1:1\"\nupstream = \"http://h\"\nmax_waiting = -1",
            ),
            "gate[g].max_waiting: expected a whole number, 0 or more, found -1",
        ),
        (
            problem(
                "[[gate]]\nname = \"g\"\nlisten = \"127.0.0.1:1\"\nupstream = \"http://h\"\nmax_waiting = 0",
            ),
            "gate[g].max_waiting: expected 1 or more",
        ),
        (
            problem(&http("", "batch = 0")),
            "stream[b].sink.batch: expected 1 or more",
        ),
        (
            problem(&http("", "timeout = \"2h\"")),
            "stream[b].sink.timeout: expected more than 0s and at most 1h",
        ),
        (
            problem(&http("path = \"events\"", "")),
            "stream[b].source.path: expected a path such as \"/events\", found \"events\"",
        ),
        (
            problem(&http("listen = \"127.0.0.1:9471\"", "")),
            "stream[b].source.listen: observe.listen listens there already (by default)",
        ),
        (
            problem(&http("listen = \"here\"", "")),
            "stream[b].source.listen: expected an IP address and a port",
        ),
        (
            problem(&http("", "url = \"ftp://h\"")),
            "stream[b].sink.url: expected a URL such as",
        ),
        (
            problem(&http("", "headers = { X-Key = 12345 }")),
            "stream[b].sink.headers.X-Key: expected a string, found a value (not shown)",
        ),
        (
            problem(&stage("type = \"map\"\njq = \".a |\"")),
            "stream[b].stage[0].jq: expected a jq expression, and this one is no good:",
        ),
        (
            problem(&stage("type = \"count\"\nby = \".a\"\nmax_keys = 0")),
            "stream[b].stage[0].max_keys: expected 1 or more",
        ),
        (
            problem(&stage("type = \"sort\"")),
            "stream[b].stage[0].type: \"sort\" is not known; known here: filter, map, count",
        ),
        (
            problem("[[gate]]\nlisten = \"127.0.0.1:1\"\nupstream = \"http://h\""),
            "gate[0]: the key \"name\" is missing",
        ),
    ];
    for (found, expected) in table {
        assert!(found.starts_with(expected), "{found}\nbut expected\n{expected}");
    }
}

#[test]
fn a_short_grace_alone_shortens_the_drain_delay() {
    let config = ok(&format!("shutdown_grace = \"5s\"\n{STREAM}"));
    assert_eq!(config.drain_delay, Duration::from_secs(1));
}

#[test]
fn values_at_the_top_are_checked_too() {
    let top = |text: &str| {
        let lines = lines(&format!("{text}\n{STREAM}"));
        assert_eq!(lines.len(), 1, "{lines:#?}");
        lines[0].clone()
    };
    assert_eq!(
        top("drain_delay = \"25s\""),
        "t.toml:1:15: drain_delay: drain_delay (25s) is part of shutdown_grace (25s) and has to be shorter"
    );
    assert_eq!(
        top("shutdown_grace = 2026-11-22"),
        "t.toml:1:18: shutdown_grace: expected a duration with its unit, such as \"250ms\", \"5s\" or \"1m 30s\", found the date 2026-11-22"
    );
    assert_eq!(
        top("shutdown_grace = \"400days\""),
        "t.toml:1:18: shutdown_grace: expected a duration of at most 366 days, found \"400days\""
    );
    assert!(top("state_dir = \"x\"").contains("expected an absolute path"));
    assert_eq!(
        lines(""),
        [
            "t.toml:1:1: there is nothing to pause: expected at least one [[stream]] or [[gate]], or a name in [state_file] publish"
        ]
    );
}

#[test]
fn what_is_not_toml_is_said_with_its_line() {
    let lines = lines("a = 1\nb = = 2\n[x\n");
    assert!(lines.iter().all(|l| l.contains("this is not TOML")), "{lines:#?}");
    assert!(lines[0].starts_with("t.toml:2:5: "), "{lines:#?}");
    assert!(lines.iter().any(|l| l.starts_with("t.toml:3:")), "{lines:#?}");
}

#[test]
fn what_kafka_cannot_be_told_is_one_line_that_names_it_and_shows_no_value() {
    let with = |source: &str| {
        format!(
            "[[stream]]\nname = \"s\"\nsink = {{ type = \"stdout\" }}\n[stream.source]\ntype = \"kafka\"\n{source}\n"
        )
    };
    let good = "brokers = [\"k:9092\"]\ngroup = \"g\"\ntopics = [\"t\"]\n";
    ok(&with(good));
    for (wrong, right, says) in [
        (
            "\"kafka://k:9092\"",
            "\"k:9092\"",
            "stream[s].source.brokers: expected hosts with their ports",
        ),
        (
            "\"k\"",
            "\"k:9092\"",
            "stream[s].source.brokers: expected hosts with their ports",
        ),
        (
            "\"a b\"",
            "\"t\"",
            "stream[s].source.topics: expected the whole name of a topic",
        ),
        ("\"\"", "\"g\"", "stream[s].source.group: expected a name"),
    ] {
        let said = lines(&with(&good.replace(right, wrong)));
        assert!(said.len() == 1 && said[0].contains(says), "{said:?}");
    }
    for (name, says) in [
        ("enable.auto.commit", "once the sink has"),
        ("group.id", "say `group`"),
        ("sasl.password", "names the file that holds it"),
    ] {
        let said = lines(&with(&format!("{good}options = {{ \"{name}\" = \"hunter2\" }}")));
        assert!(
            said.len() == 1
                && said[0].contains(name)
                && said[0].contains(says)
                && !said[0].contains("hunter2"),
            "{said:?}"
        );
    }
    let said = lines(&with(&format!("{good}ca_file = \"/x\"")));
    assert!(
        said.len() == 1 && said[0].contains("stream[s].source.tls: expected true"),
        "{said:?}"
    );
}

#[test]
fn the_environment_is_filled_in_and_never_shown() {
    let vault = |address: &str| {
        format!(
            "{STREAM}[[switch]]\nname = \"ops\"\nstreams = [\"*\"]\n[switch.vault]\naddress = \"{address}\"\npath = \"p\"\nauth = {{ method = \"token\", env = \"T\" }}\n"
        )
    };
    let config = ok(&vault("https://${HOST}:8200"));
    assert_eq!(
        config.switches[0].config.vault.as_ref().unwrap().address,
        "https://vault.internal:8200"
    );

    assert_eq!(
        problem("[[switch]]\nname = \"ops\"\nstreams = [\"*\"]\nfile = { path = \"${GONE}/x\" }"),
        "switch[ops].file.path: the environment variable GONE is not set, found \"${GONE}/x\""
    );
    // Every key of a configuration in turn is filled with a secret, in every place where a string can stand.
    let table: toml::Table = EXAMPLE.parse().unwrap();
    let mut wrong = 0;
    for variable in ["SECRET", "QUOTED"] {
        for path in leaves(&toml::Value::Table(table.clone())) {
            let mut changed = toml::Value::Table(table.clone());
            *at(&mut changed, &path) = toml::Value::String(format!("${{{variable}}}"));
            let Err(errors) = parse(&toml::to_string(&changed).unwrap()) else {
                continue;
            };
            wrong += 1;
            let said = errors.to_string();
            assert!(!said.contains("hunter2"), "{path:?}: {said}");
        }
    }
    assert!(wrong > 40, "most keys refuse such a value: {wrong}");

    // The twin: what the parser says by itself would show it, so the search above would have found it.
    let text = "name = \"hunter2\"\nstreams = 1";
    let twin =
        toml::from_str::<tidegate_providers::SwitchConfig>(&text.replace("1", "\"hunter2\"")).unwrap_err();
    assert!(twin.to_string().contains("hunter2"), "{twin}");
}

#[test]
fn a_password_in_a_url_is_not_shown() {
    let text = "[[gate]]\nname = \"g\"\nlisten = \"127.0.0.1:1\"\nupstream = \"http://ana:hunter2@h\"";
    assert_eq!(
        problem(text),
        "gate[g].upstream: expected a URL such as \"http://127.0.0.1:8081\", found \"http://***@h\""
    );
}

#[test]
fn a_bad_part_hides_nothing_of_the_others_and_is_known_by_its_name() {
    // The stream cannot be read, and the switch that names it is right all the same.
    let lines = lines("[[stream]]\nname = \"a\"\n[[switch]]\nname = \"s\"\nstreams = [\"a\"]\nfile = {}\n");
    assert_eq!(
        lines,
        [
            "t.toml:1:1: stream[a]: the key \"source\" is missing",
            "t.toml:6:8: switch[s].file: the key \"path\" is missing",
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let line = |path: &std::path::Path| {
        let errors = config::load(path).unwrap_err();
        assert_eq!(errors.problems.len(), 1);
        errors.to_string()
    };
    assert!(
        line(&file).contains("c.toml: cannot be read: No such file"),
        "{}",
        line(&file)
    );
    assert!(
        line(dir.path()).contains("cannot be read"),
        "{}",
        line(dir.path())
    );
    std::fs::write(&file, b"a = 1\nb = \"\xff\"").unwrap();
    assert!(
        line(&file).ends_with("is not UTF-8 from line 2, column 6 on"),
        "{}",
        line(&file)
    );
    std::fs::write(&file, vec![b'#'; 2 << 20]).unwrap();
    assert!(line(&file).contains("larger than 1 MiB"));
}

#[test]
fn loading_looks_at_the_files_that_a_configuration_names() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(at("cert.pem"), key.cert.pem()).unwrap();
    std::fs::write(at("key.pem"), key.signing_key.serialize_pem()).unwrap();
    std::fs::write(at("good"), "0123456789abcdef\n").unwrap();
    std::fs::write(at("short"), "hunter2").unwrap();
    let text = |token: &str, other: &str, cert: &str| {
        format!(
            "{STREAM}[control]\ntls = {{ cert_file = \"{}\", key_file = \"{}\" }}\n\
             [[control.token]]\nname = \"a\"\nfile = \"{}\"\nallow = [\"read\"]\n\
             [[control.token]]\nname = \"b\"\nfile = \"{}\"\nallow = [\"pause\"]\n",
            at(cert),
            at("key.pem"),
            at(token),
            at(other)
        )
    };
    let load = |text: String| {
        std::fs::write(at("c.toml"), text).unwrap();
        config::load(at("c.toml").as_ref())
    };
    std::fs::write(at("other"), "fedcba9876543210").unwrap();
    load(text("good", "other", "cert.pem")).unwrap();

    let errors = load(text("short", "gone", "key.pem")).unwrap_err();
    let said = errors.to_string();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(
        lines[0].contains("control.tls: cannot read the TLS certificate"),
        "{said}"
    );
    assert!(
        lines[1].contains(":9:8: control.token[a].file: ") && lines[1].contains("16 bytes"),
        "{said}"
    );
    assert!(
        lines[2].contains("control.token[b].file: ") && lines[2].contains("No such file"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");

    let said = load(text("good", "good", "cert.pem")).unwrap_err().to_string();
    assert!(
        said.contains("control.token[b].file: holds the same token as the file in line 9"),
        "{said}"
    );

    let sink = |more: &str| {
        let stream = "[[stream]]\nname = \"b\"\nsource = { type = \"file\", path = \"/a\" }\n";
        load(format!(
            "{stream}[stream.sink]\ntype = \"http\"\nurl = \"https://h/\"\n{more}\n"
        ))
        .unwrap_err()
        .to_string()
    };
    let said = sink(&format!("ca_file = \"{}\"", at("gone.pem")));
    assert!(
        said.contains(":7:11: stream[b].sink.ca_file: cannot use ca_file"),
        "{said}"
    );
    let said = sink("headers = { Content-Length = \"hunter2\" }");
    assert!(
        said.contains(
            "stream[b].sink.headers.Content-Length: the header \"Content-Length\" is set by tidegate"
        ),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");

    let vault = format!(
        "{STREAM}[[switch]]\nname = \"ops\"\nstreams = [\"*\"]\n[switch.vault]\naddress = \"https://v:1\"\npath = \"p\"\n\
         ca_file = \"{}\"\nauth = {{ method = \"token\", file = \"/t\" }}\n",
        at("gone.pem")
    );
    let said = load(vault).unwrap_err().to_string();
    assert!(said.contains(":11:11: switch[ops].vault.ca_file: "), "{said}");
}

/// The paths of all values that are no tables.
fn leaves(value: &toml::Value) -> Vec<Vec<String>> {
    let children: Vec<(String, &toml::Value)> = match value {
        toml::Value::Table(table) => table.iter().map(|(k, v)| (k.clone(), v)).collect(),
        toml::Value::Array(list) if list.iter().all(toml::Value::is_table) && !list.is_empty() => {
            list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect()
        }
        _ => return vec![vec![]],
    };
    let under = |(key, child): (String, &toml::Value)| {
        leaves(child)
            .into_iter()
            .map(move |rest| [vec![key.clone()], rest].concat())
            .collect::<Vec<_>>()
    };
    children.into_iter().flat_map(under).collect()
}

fn at<'v>(value: &'v mut toml::Value, path: &[String]) -> &'v mut toml::Value {
    path.iter().fold(value, |value, step| match value {
        toml::Value::Table(table) => table.get_mut(step).unwrap(),
        toml::Value::Array(list) => &mut list[step.parse::<usize>().unwrap()],
        _ => panic!("{step} is in no table"),
    })
}

/// The paths of all tables.
fn tables(value: &toml::Value) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = leaves(value)
        .into_iter()
        .flat_map(|leaf| {
            (0..leaf.len())
                .map(move |n| leaf[..n].to_vec())
                .collect::<Vec<_>>()
        })
        .collect();
    all.sort();
    all.dedup();
    let mut root = value.clone();
    all.retain(|path| at(&mut root, path).is_table());
    all
}

/// What a problem says is known at a place: keys, or words.
fn known(errors: &ConfigErrors, ending: &str) -> Vec<String> {
    let problem = errors.problems.iter().find(|p| p.key.ends_with(ending));
    let known = problem.and_then(|p| p.what.split_once("known here: "));
    known
        .map(|(_, list)| list.split(", ").map(str::to_owned).collect())
        .unwrap_or_default()
}

/// A key as it stands in the example: on a line of its own, in an inline table, or as the head of a table.
fn stands_in_the_example(key: &str) -> bool {
    let text = EXAMPLE;
    text.contains(&format!("{key} = "))
        || text.contains(&format!(".{key}]"))
        || text.contains(&format!("[{key}]"))
}

#[test]
fn the_example_has_every_key_and_every_word_there_is() {
    const STRANGER: &str = "qqqqqqqqqqqqqqqqq";
    let example = toml::Value::Table(EXAMPLE.parse().unwrap());
    let mut keys = 0;
    for path in tables(&example) {
        let mut changed = example.clone();
        let table = at(&mut changed, &path).as_table_mut().unwrap();
        table.insert(STRANGER.into(), toml::Value::Integer(1));
        let errors = parse(&toml::to_string(&changed).unwrap()).unwrap_err();
        let known = known(&errors, STRANGER);
        for key in known {
            keys += 1;
            assert!(
                stands_in_the_example(&key),
                "{path:?} knows {key}, and the example does not show it"
            );
        }
    }
    assert!(keys > 60, "{keys}");

    let mut words = 0;
    for path in leaves(&example) {
        let mut changed = example.clone();
        *at(&mut changed, &path) = toml::Value::String(STRANGER.into());
        let Err(errors) = parse(&toml::to_string(&changed).unwrap()) else {
            continue;
        };
        let last = path.last().unwrap();
        for word in known(&errors, last) {
            words += 1;
            let line = EXAMPLE
                .split("\n\n")
                .find(|part| part.contains(&format!("{last} = ")) && part.contains(&word));
            assert!(
                line.is_some(),
                "{path:?} can be {word:?}, and the example does not say so"
            );
            if matches!(last.as_str(), "type" | "method") {
                assert!(
                    EXAMPLE.contains(&format!("{last} = \"{word}\"")),
                    "no {last} = {word:?}"
                );
                let only = [
                    (last.clone(), toml::Value::String(word)),
                    (STRANGER.into(), toml::Value::Boolean(true)),
                ];
                let mut changed = example.clone();
                *at(&mut changed, &path[..path.len() - 1]) = toml::Value::Table(only.into_iter().collect());
                let errors = parse(&toml::to_string(&changed).unwrap()).unwrap_err();
                for key in known(&errors, STRANGER) {
                    assert!(
                        stands_in_the_example(&key),
                        "{path:?} knows {key}, and the example does not show it"
                    );
                }
            }
        }
    }
    assert!(words > 15, "{words}");
}

#[test]
fn what_the_example_shows_as_a_default_is_one() {
    let example = toml::Value::Table(EXAMPLE.parse().unwrap());
    let whole = format!("{:?}", ok(EXAMPLE));
    let mut not_default = Vec::new();
    for path in leaves(&example) {
        let mut changed = example.clone();
        let (last, above) = path.split_last().unwrap();
        at(&mut changed, above).as_table_mut().unwrap().remove(last);
        match parse(&toml::to_string(&changed).unwrap()) {
            Ok(config) if format!("{config:?}") == whole => {}
            Ok(_) => not_default.push(path.join(".")),
            Err(_) => {} // it has no default
        }
    }
    // Keys that are not set by default, or whose value here is another; the example says so beside each. The default of
    // `interval` depends on the store, and of `auth`'s keys one has to be there, which is seen when it is built.
    let said = [
        "gate.0.bypass",
        "state_dir",
        "state_file.publish",
        "stream.0.dead_letter",
        "stream.0.resume_rate",
        "stream.0.source.follow",
        "stream.2.sink.ca_file",
        "stream.2.sink.headers.X-Api-Key",
        "stream.3.source.ca_file",
        "stream.3.source.filter_subject",
        "stream.3.source.max_deliver",
        "stream.3.source.max_hold",
        "stream.4.sink.max_len",
        "stream.4.source.ca_file",
        "stream.4.source.consumer",
        "stream.4.source.field",
        "stream.4.source.password_file",
        "stream.4.source.user",
        "stream.5.sink.options.compression.type",
        "stream.5.source.ca_file",
        "stream.5.source.instance_id",
        "stream.5.source.max_hold",
        "stream.5.source.options.client.rack",
        "stream.5.source.options.session.timeout.ms",
        "switch.0.interval",
        "switch.0.vault.auth.file",
        "switch.0.vault.ca_file",
        "switch.0.vault.namespace",
        "switch.1.azure_key_vault.ca_file",
        "switch.1.azure_key_vault.resolve_to",
    ];
    not_default.sort();
    assert_eq!(not_default, said);
}

#[test]
fn a_required_key_that_is_misspelt_is_one_line_that_names_it_and_not_two() {
    let text = "[[switch]]\nname = \"a\"\nstremas = [\"*\"]\nfile = { pth = \"/x\" }\n\
                [[stream]]\nname = \"s\"\nsource = { type = \"file\", paht = \"/x\" }\nsink = { type = \"file\", other = 1 }\n";
    let said = lines(text);
    let expected = [
        "t.toml:3:1: switch[a].stremas: unknown key; did you mean \"streams\"?",
        "t.toml:4:10: switch[a].file.pth: unknown key; did you mean \"path\"?",
        "t.toml:7:27: stream[s].source.paht: unknown key; did you mean \"path\"?",
        "t.toml:8:8: stream[s].sink: the key \"path\" is missing",
    ];
    for line in expected {
        assert!(said.iter().any(|l| l == line), "{line} in {said:#?}");
    }
    assert_eq!(said.len(), 5, "and the unknown key of the sink: {said:#?}");
}
