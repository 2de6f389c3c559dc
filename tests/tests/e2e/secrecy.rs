//! Secrets stay secret: every command and every error, logged as loudly as it goes, with marked tokens and values.
use crate::harness::{Client, Ended, Process, Site, eventually, http_client, run, tidegate};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tidegate_devstore::{Fault, RetryAfter, Rule};
use tokio::process::Command;

/// Part of everything that must not be seen, so that a piece of it is found too.
const MARK: &str = "mArKeD";
const ROOT_TOKEN: &str = "hvs.mArKeD-root-token-0123456789";
const CONTROL_TOKEN: &str = "mArKeD-control-token-0123456789";
/// So that a store that hangs is soon given up, and soon tried again.
const OFTEN: &str = "timeout = \"300ms\"\nretry_max = \"200ms\"";
const WRONG_TOKEN: &str = "mArKeD-wrong-token-0123456789";

/// Texts with where they came from.
type Heard = Vec<(String, String)>;

/// Where the mark shows.
fn leaks(heard: &Heard) -> Vec<String> {
    let encoded = [MARK.to_owned(), hex(MARK)];
    heard
        .iter()
        .filter(|(_, text)| {
            encoded.iter().any(|mark| text.contains(mark)) || decoded(text).any(|t| t.contains(MARK))
        })
        .map(|(place, text)| {
            let line = text
                .lines()
                .find(|line| line.contains(MARK))
                .unwrap_or("(encoded)");
            format!("{place}: {line}")
        })
        .collect()
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// What Rust's `Debug` of bytes would show.
fn decoded(text: &str) -> impl Iterator<Item = String> {
    text.split(['[', ']']).filter_map(|list| {
        let bytes: Option<Vec<u8>> = list.split(", ").map(|n| n.parse().ok()).collect();
        Some(String::from_utf8_lossy(&bytes?).into_owned())
    })
}

/// Everything that one sidecar shows at this moment, but for its watch.
async fn shown(client: &Client, when: &str, heard: &mut Heard) {
    for path in ["/status", "/openapi.json", "/nowhere", "/streams/nowhere/pause"] {
        let (_, text) = client
            .send("GET", &format!("{}{path}", client.control), None)
            .await;
        heard.push((format!("control {path}, {when}"), text));
    }
    for path in ["/status", "/metrics", "/readyz", "/livez", "/nowhere"] {
        heard.push((format!("observe {path}, {when}"), client.observe(path).await.1));
    }
}

/// All of a watch, as it comes.
fn watch(client: &Client, token: &str) -> Arc<Mutex<String>> {
    let all = Arc::new(Mutex::new(String::new()));
    let (into, url, token) = (all.clone(), format!("{}/watch", client.control), token.to_owned());
    tokio::spawn(async move {
        let mut answer = http_client().get(url).bearer_auth(token).send().await.unwrap();
        while let Ok(Some(piece)) = answer.chunk().await {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&piece));
        }
    });
    all
}

/// Every file below a folder, names included.
fn files(below: &Path, heard: &mut Heard) {
    for entry in std::fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, heard);
        } else {
            let bytes = std::fs::read(&path).unwrap();
            heard.push((
                format!("the file {}", path.display()),
                format!("{path:?} {}", String::from_utf8_lossy(&bytes)),
            ));
        }
    }
}

async fn said(place: &str, command: Command, heard: &mut Heard) -> Option<i32> {
    let ended = run(command).await;
    heard.extend(both(place, &ended));
    ended.code
}

fn both(place: &str, ended: &Ended) -> [(String, String); 2] {
    let of = |pipe: &str, text: &str| (format!("{pipe} of {place}"), text.to_owned());
    [of("stdout", &ended.stdout), of("stderr", &ended.stderr)]
}

/// Marks in the token files, in the environment, in secrets and in what a store answers.
async fn marked_site() -> Site {
    let mut site = Site::with_root_token(
        "[control]\nlisten = \"127.0.0.1:0\"\n[observe]\nlisten = \"127.0.0.1:0\"\n",
        ROOT_TOKEN,
    )
    .await;
    for (file, token) in [
        ("oncall", CONTROL_TOKEN),
        ("wrong", WRONG_TOKEN),
        ("secret-id", "mArKeD-secret-id-0123456789"),
        ("jwt", "eyJ.mArKeD.jwt"),
    ] {
        site.write(file, token);
    }
    site.write("words", "mArKeD in several words");
    site.write("flag", "false");
    site.add_top("state_dir = \"{dir}/state\"");
    site.add(
        "[[control.token]]\nname = \"oncall\"\nfile = \"{dir}/oncall\"\nallow = [\"read\", \"pause\", \"resume\", \"override\"]\n",
    );
    let url = site.store.vault_url();
    let logins = [
        ("by-env", "method = \"token\", env = \"STORE_TOKEN\""),
        (
            "by-approle",
            "method = \"approle\", role_id = \"${ROLE}\", secret_id_file = \"{dir}/secret-id\"",
        ),
        (
            "by-jwt",
            "method = \"jwt\", role = \"orders\", token_file = \"{dir}/jwt\"",
        ),
        (
            "by-kubernetes",
            "method = \"kubernetes\", role = \"orders\", token_file = \"{dir}/jwt\"",
        ),
    ];
    site.vault_switch("ops", &["*"], "streams/orders", OFTEN)
        .file_switch("night", &["*"], "flag", "");
    for (name, auth) in logins {
        site.add(&format!(
            "[[switch]]\nname = \"{name}\"\nstreams = [\"*\"]\ninterval = \"100ms\"\n{OFTEN}\nat_start = \"running\"\n\
             vault = {{ address = \"{url}\", path = \"streams/orders\", auth = {{ {auth} }} }}\n"
        ));
    }
    site.put("streams/orders", fields(false));
    site.file_stream("orders");
    site
}

/// A flag among what nobody must see.
fn fields(paused: bool) -> Value {
    json!({ "IsPaused": paused, "password": "mArKeD-password", "nested": { "key": ["mArKeD-in-a-list"] } })
}

fn in_environment(command: &mut Command) -> &mut Command {
    command
        .env("STORE_TOKEN", ROOT_TOKEN)
        .env("ROLE", "mArKeD-role-id")
}

/// What the store does, and the word that `ops` then reads.
fn troubles() -> Vec<(Rule, &'static str)> {
    let body =
        "{\"errors\":[\"permission denied for hvs.mArKeD-echoed\"],\"data\":{\"IsPaused\":\"mArKeD-value\"}}";
    let with = |status: u16, kind: &str, text: &str| Rule::new(Fault::status(status).body(kind, text));
    vec![
        (
            with(
                200,
                "application/json",
                "{\"data\": {\"data\": {\"IsPaused\": \"mArKeD-half",
            ),
            "unavailable",
        ),
        (
            with(
                200,
                "application/json",
                "{\"data\":{\"data\":{\"IsPaused\":\"mArKeD\"},\"metadata\":{\"version\":\"mArKeD\"}}}",
            ),
            "unavailable",
        ),
        (with(403, "application/json", body), "denied"),
        (with(404, "application/json", body), "missing"),
        (with(400, "application/json", body), "unavailable"),
        (with(500, "text/html", "<html>mArKeD</html>"), "unavailable"),
        (
            with(
                503,
                "application/json",
                "{\"errors\":[\"Vault is sealed, mArKeD\"]}",
            ),
            "sealed",
        ),
        (
            Rule::new(
                Fault::status(429)
                    .retry_after(RetryAfter::Verbatim("mArKeD".into()))
                    .body("text/plain", MARK),
            ),
            "throttled",
        ),
        (
            Rule::new(Fault::redirect(
                "https://mArKeD:mArKeD@other.internal/mArKeD?token=mArKeD",
            )),
            "unavailable",
        ),
        (Rule::new(Fault::ContentType("mArKeD/mArKeD".into())), "running"),
        (Rule::new(Fault::Hang), "unavailable"),
        (Rule::new(Fault::ResetInBody), "unavailable"),
        (Rule::new(Fault::Truncated), "unavailable"),
        (Rule::new(Fault::NotHttp), "unavailable"),
    ]
}

/// Values in the secret, and the word that `ops` then reads.
fn values() -> Vec<(Value, &'static str)> {
    vec![
        (json!({ "IsPaused": "mArKeD-value" }), "malformed"),
        (
            json!({ "IsPaused": { "mArKeD-key": "mArKeD-value" } }),
            "malformed",
        ),
        (json!({ "IsPaused": ["mArKeD-value"] }), "malformed"),
        (json!({ "mArKeD-key": "mArKeD-value" }), "missing"),
        (
            json!({ "IsPaused": true, "until": "mArKeD", "reason": ["mArKeD"], "by": { "mArKeD": 1 } }),
            "paused",
        ),
        (fields(false), "running"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_trouble_makes_a_running_sidecar_show_a_token_or_a_value() {
    let site = marked_site().await;
    let mut heard = Heard::new();
    let mut command = tidegate(["run", "--log", "trace", "--config"]);
    in_environment(&mut command).arg(site.config_file());
    let (process, stranger) = Process::listening(command).await;
    let client = stranger.with_token(CONTROL_TOKEN);
    let watched = watch(&client, CONTROL_TOKEN);
    client.reads("by-approle", "denied").await;
    client.reads("by-env", "running").await;

    for (rule, reading) in troubles() {
        let rule = site.store.faults().add(rule);
        client.reads("ops", reading).await;
        shown(&client, reading, &mut heard).await;
        assert!(site.store.faults().remove(rule));
        client.reads("ops", "running").await;
    }
    for (value, reading) in values() {
        site.put("streams/orders", value);
        client.reads("ops", reading).await;
        shown(&client, reading, &mut heard).await;
    }
    for (text, reading) in [
        ("mArKeD-value", "malformed"),
        ("{\"IsPaused\": \"mArKeD-value\"", "malformed"),
        ("{\"mArKeD\": 1}", "missing"),
    ] {
        site.write("flag", text);
        client.reads("night", reading).await;
        shown(&client, reading, &mut heard).await;
    }
    for token in ["hvs.mArKeD-of-another-store", "mArKeD not a\ntoken", ""] {
        site.write("vault-token", token);
        for _ in 0..3 {
            client.poll().await;
        }
        shown(&client, "a token that is refused or none", &mut heard).await;
    }

    // Calls by somebody who has another token. Guessing is slow, so they come all at once.
    let strangers = [
        stranger.with_token(WRONG_TOKEN),
        stranger.clone(),
        stranger.with_token("mArKeD in several words"),
    ];
    let refused = strangers.iter().flat_map(|caller| {
        let query = format!("/pause?token={WRONG_TOKEN}");
        [
            ("GET", "/status".to_owned()),
            ("GET", "/watch".into()),
            ("POST", query),
        ]
        .map(|(method, path)| async move {
            let (status, text) = caller
                .send(method, &format!("{}{path}", caller.control), None)
                .await;
            assert_eq!(status, 401, "{text}");
            (format!("refused: {method} {path}"), text)
        })
    });
    let refused: Vec<_> = refused.collect();
    heard.extend(join_all(refused).await);
    assert_eq!(client.post("/pause").await.0, 200);
    shown(&client, "paused", &mut heard).await;
    eventually("the watch has told of the pause", async || {
        watched.lock().unwrap().contains("\"api\"").then_some(())
    })
    .await;
    process.terminate();
    let ended = process.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    heard.push(("watch".into(), watched.lock().unwrap().clone()));
    heard.push(("stdout".into(), ended.stdout));
    heard.push(("stderr".into(), ended.stderr.clone()));
    let before = heard.len();
    files(&site.path("state"), &mut heard);
    assert!(heard.len() > before, "holds and readings are kept");
    assert!(ended.stderr.contains("by-approle"), "it logged what went wrong");
    assert_eq!(leaks(&heard), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_shows_a_token_or_a_value_whether_it_works_or_not() {
    let site = marked_site().await;
    let mut heard = Heard::new();
    let mut command = tidegate(["run", "--config"]);
    in_environment(&mut command).arg(site.config_file());
    let (process, client) = Process::listening(command).await;
    client.with_token(CONTROL_TOKEN).reads("ops", "running").await;

    let commands = [
        "pause --reason maintenance",
        "status",
        "status --json",
        "drain",
        "wait --until paused --timeout 100ms",
        "resume",
        "wait --until running --timeout 100ms",
        "override orders --switch ops --reason lost",
        "drain --timeout 100ms",
        "pause nowhere",
        "pause orders --no-wait",
        "resume orders",
    ];
    let admins = [
        client.control.clone(),
        site.store.vault_url(),
        "http://127.0.0.1:1".into(),
        "https://ops:mArKeD@127.0.0.1:9470".into(),
    ];
    let one = |command: &'static str, admin: &str, token: &str| {
        let file = site.path(token);
        let global = [
            "--log",
            "trace",
            "--admin",
            admin,
            "--token-file",
            file.to_str().unwrap(),
        ];
        let place = format!("{command} at {admin} as {token}");
        let command = tidegate(command.split(' ').chain(global));
        async move { both(&place, &run(command).await) }
    };
    for command in commands {
        let each = admins.iter().map(|admin| one(command, admin, "oncall"));
        heard.extend(join_all(each).await.into_iter().flatten());
    }
    // Guessing is slow, so these come all at once.
    let guesses = commands
        .iter()
        .flat_map(|command| ["wrong", "words"].map(|token| one(command, &admins[0], token)));
    let guesses: Vec<_> = guesses.collect();
    heard.extend(join_all(guesses).await.into_iter().flatten());
    for json in [&["watch"][..], &["watch", "--json"]] {
        let file = site.path("oncall");
        let more = [
            "-vv",
            "--admin",
            &client.control,
            "--token-file",
            file.to_str().unwrap(),
        ];
        let watching = Process::spawn(tidegate(json.iter().copied().chain(more)));
        eventually("the watch says something", async || {
            watching.stdout().contains("orders").then_some(())
        })
        .await;
        heard.push((format!("{json:?}"), watching.stdout() + &watching.stderr()));
    }
    process.terminate();
    process.end().await;

    let check = |log: &[&str]| {
        let mut command = tidegate(["check", "--config"]);
        in_environment(&mut command).arg(site.config_file()).args(log);
        command
    };
    for (rule, reading) in troubles() {
        let rule = site.store.faults().add(rule);
        said(
            &format!("check, {reading}"),
            check(&["--log", "trace"]),
            &mut heard,
        )
        .await;
        site.store.faults().remove(rule);
    }
    for (value, reading) in values() {
        site.put("streams/orders", value);
        said(&format!("check, {reading}"), check(&["-vv"]), &mut heard).await;
    }
    assert_eq!(leaks(&heard), [""; 0]);
}

/// What the demo and the dev store print of their own is for whoever tries them; what others bring is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_the_demo_nor_the_dev_store_shows_what_is_written_to_it_or_who_asks() {
    let mut heard = Heard::new();
    let store = [
        "devstore",
        "--listen",
        "127.0.0.1:0",
        "--key-vault-listen",
        "127.0.0.1:0",
    ];
    let demo = [
        "demo",
        "--store-listen",
        "127.0.0.1:0",
        "--control-listen",
        "127.0.0.1:0",
        "--observe-listen",
        "127.0.0.1:0",
    ];
    for args in [&store[..], &demo[..]] {
        let mut command = tidegate(args.iter().copied().chain(["--log", "trace"]));
        in_environment(&mut command)
            .env("VAULT_TOKEN", ROOT_TOKEN)
            .env("AZURE_CLIENT_SECRET", WRONG_TOKEN);
        let process = Process::spawn(command);
        // The line that it prints for people says where the store is.
        let url = eventually("it says where the store is", async || {
            let said = process.stdout();
            let (_, after) = said.split_once("-H 'X-Vault-Token: dev-only-token'")?;
            let at = after.find("http://127.0.0.1:")?;
            let url: String = after[at..].chars().take_while(|c| !c.is_whitespace()).collect();
            after[at..].contains(char::is_whitespace).then_some(url)
        })
        .await;
        let client = http_client();
        for token in ["dev-only-token", WRONG_TOKEN] {
            for value in ["false", "mArKeD", "1"] {
                let data = json!({ "data": { "IsPaused": value, "password": "mArKeD" } });
                let request = client.post(&url).header("X-Vault-Token", token);
                let answer = request.body(data.to_string()).send().await.unwrap();
                assert_eq!(answer.status().is_success(), token == "dev-only-token");
            }
        }
        if args == demo {
            eventually("the demo has seen what is no flag", async || {
                (process.stdout() + &process.stderr())
                    .contains("malformed")
                    .then_some(())
            })
            .await;
        }
        process.terminate();
        let ended = process.end().await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        heard.extend(both(args[0], &ended));
    }
    assert_eq!(leaks(&heard), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_complaint_about_a_configuration_shows_what_came_out_of_the_environment() {
    let site = Site::new().await;
    let mut heard = Heard::new();
    let good = "[control]\nlisten = \"127.0.0.1:0\"\nbase_path = \"\"\n[observe]\nlisten = \"127.0.0.1:0\"\n\
        [[control.token]]\nname = \"ana\"\nfile = \"{dir}/oncall\"\nallow = [\"read\"]\n\
        [[switch]]\nname = \"ops\"\nstreams = [\"orders\"]\ninterval = \"1s\"\nkey = \"IsPaused\"\nat_start = \"paused\"\n\
        [switch.vault]\naddress = \"https://vault:8200\"\nmount = \"secret\"\npath = \"streams/orders\"\nca_file = \"{dir}/ca\"\n\
        auth = { method = \"token\", file = \"{dir}/oncall\" }\n\
        [[stream]]\nname = \"orders\"\nsource = { type = \"file\", path = \"/nowhere/in\" }\nsink = { type = \"file\", path = \"/nowhere/out\" }\n";
    site.write("oncall", CONTROL_TOKEN);
    let mut complaints = 0;
    let good = good.replace("{dir}", site.dir().to_str().unwrap());
    // Each text of the file in turn comes out of the environment, in several shapes; but for the names, by which people
    // are told what is meant.
    let pieces: Vec<&str> = good.split('"').collect();
    let texts: Vec<&str> = pieces.iter().copied().skip(1).step_by(2).collect();
    for value in [
        "mArKeD-value",
        "mArKeD\"\\\u{7}\nvalue",
        "https://mArKeD:mArKeD@vault:8200",
    ] {
        for place in (0..texts.len()).filter(|place| !pieces[2 * place].ends_with("name = ")) {
            let mut number = 0;
            let text: String = good
                .split('"')
                .enumerate()
                .map(|(n, piece)| {
                    let quote = if n == 0 { "" } else { "\"" };
                    let inside = n % 2 == 1;
                    number += usize::from(inside);
                    if inside && number == place + 1 {
                        format!("{quote}${{HIDDEN}}")
                    } else {
                        format!("{quote}{piece}")
                    }
                })
                .collect();
            assert!(text.contains("${HIDDEN}"));
            let file = site.write("t.toml", &text);
            let mut command = tidegate(["check", "--log", "trace", "--config", file.to_str().unwrap()]);
            command.env("HIDDEN", value);
            let code = said(&format!("check with {}", texts[place]), command, &mut heard).await;
            complaints += usize::from(code == Some(78));
        }
    }
    assert!(
        complaints > texts.len(),
        "most of them are mistakes: {complaints}"
    );
    assert_eq!(leaks(&heard), [""; 0]);
}

/// The same search over the same places, where what may be seen is marked: it is found in every one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twin_the_search_finds_marks_wherever_something_may_be_seen() {
    let mut site = Site::with("[control]\nlisten = \"127.0.0.1:0\"\nbase_path = \"mArKeD-base\"\n[observe]\nlisten = \"127.0.0.1:0\"\n").await;
    site.add_top("state_dir = \"{dir}/state\"");
    site.put(
        "streams/orders",
        json!({ "IsPaused": true, "reason": "mArKeD-reason" }),
    );
    site.vault_switch("mArKeD-switch", &["*"], "streams/orders", "")
        .file_stream("mArKeD-orders");
    let mut heard = Heard::new();
    let (process, client) = Process::run(&site, &["--log", "trace"]).await;
    let based = Client::new(
        &format!("{}/mArKeD-base", client.control.trim_start_matches("http://")),
        client.observe.trim_start_matches("http://"),
    );
    eventually("it is ready", async || {
        (client.observe("/readyz").await.0 == 200).then_some(())
    })
    .await;
    let watched = watch(&based, "");
    based.reads("mArKeD-switch", "paused").await;
    eventually("the watch says something", async || {
        watched.lock().unwrap().contains("\n\n").then_some(())
    })
    .await;
    heard.push(("control /status".into(), based.status().await.to_string()));
    heard.push((
        "control /openapi.json".into(),
        client
            .send("GET", &format!("{}/openapi.json", client.control), None)
            .await
            .1,
    ));
    heard.push(("observe /status".into(), client.observe("/status").await.1));
    heard.push(("observe /metrics".into(), client.observe("/metrics").await.1));
    said(
        "status",
        tidegate(["status", "--admin", &based.control]),
        &mut heard,
    )
    .await;
    said(
        "nobody",
        tidegate(["status", "--admin", "http://127.0.0.1:1/mArKeD"]),
        &mut heard,
    )
    .await;
    process.terminate();
    let ended = process.end().await;
    heard.push(("watch".into(), watched.lock().unwrap().clone()));
    heard.push(("stderr of run".into(), ended.stderr));
    heard.push(("bytes".into(), format!("{:?}", MARK.as_bytes())));
    heard.push(("hex".into(), hex(MARK)));
    files(&site.path("state"), &mut heard);

    let found = leaks(&heard);
    for place in [
        "control /status",
        "control /openapi.json",
        "observe /status",
        "observe /metrics",
        "stdout of status",
        "stderr of nobody",
        "watch",
        "stderr of run",
        "bytes",
        "hex",
        "the file ",
    ] {
        assert!(
            found.iter().any(|leak| leak.starts_with(place)),
            "the search is blind at {place}: {found:#?}"
        );
    }
}
