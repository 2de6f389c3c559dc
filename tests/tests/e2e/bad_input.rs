//! What a person is told who made a mistake, and what a script is: one clear line and the documented exit code.
use crate::harness::{Client, Ended, Process, Site, run, tidegate};
use serde_json::{Value, json};
use std::net::TcpListener;
use tidegate_devstore::{Fault, Rule};

const STREAM: &str = "[[stream]]\nname = \"orders\"\n\
    source = { type = \"file\", path = \"/nowhere/in\" }\nsink = { type = \"file\", path = \"/nowhere/out\" }\n";
const SURFACES: &str = "[control]\nlisten = \"127.0.0.1:0\"\n[observe]\nlisten = \"127.0.0.1:0\"\n";

/// What it complained of: a line each.
fn complaints(ended: &Ended) -> Vec<&str> {
    ended
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("tidegate: "))
        .collect()
}

async fn with_config(verb: &str, site: &Site, text: &str) -> Ended {
    let file = site.write("t.toml", text);
    run(tidegate([verb, "--config", file.to_str().unwrap()])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mistake_in_a_configuration_is_one_line_that_names_file_line_key_and_what_was_expected() {
    let site = Site::new().await;
    site.write("short", "fifteen-bytes-!");
    site.write("empty", "");
    site.write("long", "a-token-that-is-long-enough");
    let switch = "[[switch]]\nname = \"ops\"\nstreams = [\"*\"]\nfile = { path = \"/x\" }\n";
    let token = |file: &str| {
        format!("[[control.token]]\nname = \"ana\"\nallow = [\"read\"]\nfile = \"{{dir}}/{file}\"\n")
    };
    let vault = |rest: &str| {
        format!("[[switch]]\nname = \"ops\"\nstreams = [\"*\"]\nvault = {{ path = \"p\", {rest} }}\n")
    };
    let another = |stream: &str, name: &str| stream.replace("orders", name).replace("nowhere", "elsewhere");
    let auth = "auth = { method = \"token\", env = \"VAULT_TOKEN\" }";
    // text after the surfaces and the stream (lines 1 to 8), where, the words
    let table = [
        (
            format!("{switch}intervall = \"1s\"\n"),
            "13:1: switch[ops].intervall: ",
            "did you mean \"interval\"?",
        ),
        (
            switch.replace("\"*\"", "\"oders\""),
            "11:12: switch[ops].streams[0]: ",
            "did you mean \"orders\"?",
        ),
        (
            format!("{switch}interval = \"1\"\n"),
            "13:12: switch[ops].interval: ",
            "expected a duration",
        ),
        (
            format!("{switch}interval = \"20ms\"\n"),
            "13:12: switch[ops].interval: ",
            "100ms",
        ),
        (
            format!("{switch}timeout = 2\n"),
            "13:11: switch[ops].timeout: ",
            "found 2",
        ),
        (
            format!("{switch}at_start = \"runing\"\n"),
            "13:12: switch[ops].at_start: ",
            "did you mean \"running\"?",
        ),
        (
            format!("{switch}at_start = \"last\"\n"),
            "13:12: switch[ops].at_start: ",
            "state_dir",
        ),
        (
            format!("{switch}max_stale = \"1s\"\n"),
            "13:13: switch[ops].max_stale: ",
            "interval + timeout",
        ),
        (
            format!("{switch}on_stale = \"resume\"\n"),
            "13:12: switch[ops].on_stale: ",
            "keep, pause",
        ),
        (
            format!("{switch}key = \"a::b\"\n"),
            "13:7: switch[ops].key: ",
            "expected",
        ),
        (
            switch.replace("\"ops\"", "3"),
            "10:8: switch[0].name: ",
            "found 3",
        ),
        (format!("{switch}{switch}"), "14:8: switch[ops].name: ", "line 10"),
        (
            switch.replace("path", "paht"),
            ": switch[ops].file",
            "did you mean \"path\"?",
        ),
        (
            vault(&format!("address = \"http://vault.internal:8200\", {auth}")),
            ": switch[ops].vault.address: ",
            "allow_plaintext",
        ),
        (
            vault(&format!("address = \"vault:8200\", {auth}")),
            ": switch[ops].vault.address: ",
            "expected",
        ),
        (
            vault("address = \"https://vault:8200\", auth = { method = \"tokn\" }"),
            ": switch[ops].vault.auth.method: ",
            "did you mean \"token\"?",
        ),
        (
            vault(
                "address = \"https://vault:8200\", auth = { method = \"token\", file = \"/t\", env = \"T\" }",
            ),
            ": switch[ops].vault.auth",
            "exactly one",
        ),
        (
            vault(&format!("address = \"https://vault:8200\", {auth}")),
            ": switch[ops].vault.auth.env: ",
            "VAULT_TOKEN is not set",
        ),
        (
            vault(&format!("address = \"https://${{VAULT_HOST}}:8200\", {auth}")),
            ": switch[ops].vault.address: ",
            "VAULT_HOST",
        ),
        (token("nowhere"), "12:8: control.token[ana].file: ", "nowhere"),
        (token("empty"), "12:8: control.token[ana].file: ", "empty"),
        (token("short"), "12:8: control.token[ana].file: ", "16"),
        (
            token("long").replace("read", "reed"),
            "11:10: control.token[ana].allow[0]: ",
            "did you mean \"read\"?",
        ),
        (another(STREAM, "orders"), "10:8: stream[orders].name: ", "line 6"),
        (
            another(STREAM, "b").replacen("\"file\"", "\"fiel\"", 1),
            ": stream[b].s",
            "did you mean \"file\"?",
        ),
        (
            another(STREAM, "b").replacen("path", "pth", 1),
            ": stream[b].s",
            "did you mean \"path\"?",
        ),
        (
            "[strem]\nname = \"x\"\n".into(),
            "9:2: strem: ",
            "did you mean \"stream\"?",
        ),
        ("x = \n".into(), "9:5: ", "not TOML"),
    ];
    for (text, place, words) in table {
        let text = format!("{SURFACES}{STREAM}{text}").replace("{dir}", site.dir().to_str().unwrap());
        for verb in ["check", "run"] {
            let ended = with_config(verb, &site, &text).await;
            let here = format!("{verb}\n{text}\n--- said\n{}", ended.stderr);
            assert_eq!(ended.code, Some(78), "{here}");
            let said = complaints(&ended);
            assert!(said.len() == 1 && ended.stderr.lines().count() == 1, "{here}");
            let file = format!("{}:", site.path("t.toml").display());
            let meant = said
                .iter()
                .find(|line| line.starts_with(&file) && line.contains(place) && line.contains(words));
            assert!(meant.is_some(), "expected {place:?} and {words:?} in\n{here}");
            assert_eq!(ended.stdout, "", "{here}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_wrong_is_said_at_once_in_the_order_of_the_file() {
    let site = Site::new().await;
    let text = format!(
        "stat_dir = \"/x\"\n{SURFACES}{STREAM}dead_leter = \"/x\"\n[[switch]]\nname = \"ops\"\nstreams = [\"odrers\"]\nfile = {{ path = \"/x\" }}\n"
    );
    let ended = with_config("check", &site, &text).await;
    let said = complaints(&ended);
    let suggested: Vec<Option<&str>> = said
        .iter()
        .map(|line| line.split("did you mean ").nth(1))
        .collect();
    assert_eq!(
        suggested,
        [
            Some("\"state_dir\"?"),
            Some("\"dead_letter\"?"),
            Some("\"orders\"?")
        ],
        "{said:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_is_no_text_file_is_one_line_and_78() {
    let site = Site::new().await;
    std::fs::write(site.path("binary"), [b'a', b'\n', 0xff, 0xfe]).unwrap();
    std::fs::write(site.path("huge"), " ".repeat(3 << 20)).unwrap();
    for (file, words) in [
        ("nowhere", "No such file"),
        (".", "directory"),
        ("binary", "UTF-8"),
        ("huge", "larger than"),
    ] {
        let path = site.path(file);
        for verb in ["check", "run"] {
            let ended = run(tidegate([verb, "--config", path.to_str().unwrap()])).await;
            assert_eq!(ended.code, Some(78), "{}", ended.stderr);
            let [line] = complaints(&ended)[..] else {
                panic!("{}", ended.stderr)
            };
            assert!(
                line.contains(path.to_str().unwrap()) && line.contains(words),
                "{line}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_reads_every_switch_once_and_says_what_it_found_in_a_line_and_an_exit_code() {
    let cases: [(&str, i32, &str, &str); 12] = [
        ("running", 0, "running", "version 1"),
        ("paused", 0, "paused", "version 1"),
        ("missing", 65, "missing", "404"),
        ("deleted", 65, "deleted", "undelete"),
        ("key absent", 65, "missing", "no field \"IsPaused\""),
        ("malformed", 65, "malformed", "to be true or false"),
        ("denied", 77, "denied", "403"),
        ("sealed", 69, "sealed", "unseal it"),
        ("throttled", 69, "throttled", "429"),
        ("refused", 69, "unavailable", "refused"),
        ("hangs", 69, "unavailable", "within 300ms"),
        ("garbage", 69, "unavailable", "check address, mount and kv"),
    ];
    for (trouble, code, reading, words) in cases {
        let mut site = Site::with(SURFACES).await;
        site.vault_switch("ops", &["*"], "streams/orders", "timeout = \"300ms\"")
            .file_stream("orders");
        match trouble {
            "running" | "paused" => drop(site.flag("streams/orders", trouble == "paused")),
            "missing" => {}
            "deleted" => {
                site.flag("streams/orders", true);
                site.store
                    .vault()
                    .call("DELETE", "secret/data/streams/orders", Value::Null);
            }
            "key absent" => drop(site.put("streams/orders", json!({ "Paused": true }))),
            "malformed" => drop(site.put("streams/orders", json!({ "IsPaused": "hunter2" }))),
            "denied" => drop(site.write("vault-token", "hvs.of-another-store")),
            "sealed" => site.store.vault().seal(),
            "throttled" => drop(site.store.faults().add(Rule::new(Fault::status(429)))),
            "refused" => site.store.vault_offline().await.unwrap(),
            "hangs" => drop(site.store.faults().add(Rule::new(Fault::Hang))),
            "garbage" => drop(site.store.faults().add(Rule::new(Fault::Garbage))),
            other => panic!("{other}"),
        }
        let file = site.config_file();
        let ended = run(tidegate(["check", "--config", file.to_str().unwrap()])).await;
        let here = format!("{trouble}: {ended:#?}");
        assert_eq!(ended.code, Some(code), "{here}");
        let lines: Vec<&str> = ended
            .stdout
            .lines()
            .filter(|line| line.starts_with("switch ops: "))
            .collect();
        let [line] = lines[..] else { panic!("{here}") };
        assert!(
            line.starts_with(&format!("switch ops: {reading}")) && line.contains(words),
            "{here}"
        );
        assert!(
            line.contains("secret/streams/orders") && line.contains(&site.store.vault_url()),
            "{here}"
        );
        assert!(
            !ended.stdout.contains("hunter2") && ended.stderr.is_empty(),
            "{here}"
        );
        assert!(
            ended
                .stdout
                .contains("1,000 replicas send 10000 requests a second"),
            "{here}"
        );
        assert!(ended.stdout.contains("no state_dir: a restart forgets"), "{here}");
        let reads = site.store.requests().count("/v1/secret/data/streams/orders");
        assert_eq!(reads, u64::from(trouble != "refused"), "one read: {here}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_switches_check_reports_each_and_the_worst_is_the_exit_code() {
    let mut site = Site::with(SURFACES).await;
    site.write("flag", "perhaps");
    site.flag("streams/orders", true);
    site.vault_switch("a", &["*"], "streams/orders", "")
        .file_switch("b", &["*"], "flag", "")
        .file_stream("orders");
    let text = site.config().to_owned();
    let ended = with_config("check", &site, &text).await;
    assert_eq!(ended.code, Some(65), "{ended:#?}");
    assert!(
        ended.stdout.contains("switch a: paused") && ended.stdout.contains("switch b: malformed"),
        "{ended:#?}"
    );
    site.write("vault-token", "hvs.of-another-store");
    let ended = with_config("check", &site, &text).await;
    assert_eq!(
        ended.code,
        Some(77),
        "a refusal has to be mended first: {ended:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_named_with_the_process_that_holds_it() {
    let site = Site::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let holder = format!("(pid {})", std::process::id());
    let said = |ended: &Ended| {
        let lines = complaints(ended);
        let [line] = lines[..] else { panic!("{ended:#?}") };
        assert!(
            line.contains(&address) && line.contains("taken") && line.contains(&holder),
            "{line}"
        );
    };
    for table in ["control", "observe"] {
        let text = format!("{SURFACES}{STREAM}");
        let text = text.replacen(
            &format!("[{table}]\nlisten = \"127.0.0.1:0\""),
            &format!("[{table}]\nlisten = \"{address}\""),
            1,
        );
        let ended = with_config("run", &site, &text).await;
        assert_eq!(ended.code, Some(78), "{ended:#?}");
        said(&ended);
    }
    for command in [
        ["devstore", "--listen", &address, "", "", "", ""],
        [
            "devstore",
            "--listen",
            "127.0.0.1:0",
            "--key-vault-listen",
            &address,
            "",
            "",
        ],
        [
            "demo",
            "--store-listen",
            &address,
            "--control-listen",
            "127.0.0.1:0",
            "--observe-listen",
            "127.0.0.1:0",
        ],
        [
            "demo",
            "--store-listen",
            "127.0.0.1:0",
            "--control-listen",
            &address,
            "--observe-listen",
            "127.0.0.1:0",
        ],
    ] {
        let ended = run(tidegate(command.into_iter().filter(|word| !word.is_empty()))).await;
        assert_eq!(ended.code, Some(69), "{ended:#?}");
        said(&ended);
    }
}

/// A sidecar with tokens, held by nobody but whom the test lets.
async fn with_tokens() -> (Site, Process, Client) {
    let mut site = Site::new().await;
    site.write("admin", "the-token-that-may-do-everything");
    site.write("reader", "the-token-that-may-only-read");
    site.write("stranger", "a-token-that-nobody-has-listed");
    site.write("two words", "two words in a token");
    site.flag("streams/orders", false);
    site.add(
        "[[control.token]]\nname = \"admin\"\nfile = \"{dir}/admin\"\nallow = [\"read\", \"pause\", \"resume\", \"override\"]\n\
         [[control.token]]\nname = \"reader\"\nfile = \"{dir}/reader\"\nallow = [\"read\"]\n",
    );
    site.vault_switch("ops", &["*"], "streams/orders", "")
        .file_stream("orders")
        .file_stream("invoices");
    let (process, client) = Process::run(&site, &[]).await;
    let client = client.with_token("the-token-that-may-do-everything");
    client.reads("ops", "running").await;
    (site, process, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_says_in_a_line_why_it_cannot_and_ends_with_the_documented_code() {
    let (site, _process, client) = with_tokens().await;
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{nobody}");
    let tidegate_at = client.control.clone();
    let store = site.store.vault_url();
    // command, --admin, token file, exit code, words in the first line
    let table: &[(&str, &str, &str, i32, &str)] = &[
        ("status", &nobody, "admin", 69, "no tidegate answers at"),
        ("watch", &nobody, "admin", 69, "no tidegate answers at"),
        ("pause", &nobody, "admin", 69, "no tidegate answers at"),
        ("resume", &nobody, "admin", 69, "no tidegate answers at"),
        ("drain", &nobody, "admin", 69, "no tidegate answers at"),
        (
            "override orders --switch ops --reason x",
            &nobody,
            "admin",
            69,
            "no tidegate answers at",
        ),
        (
            "wait --until paused --timeout 100ms",
            &nobody,
            "admin",
            69,
            "no tidegate answers at",
        ),
        (
            "status",
            &store,
            "admin",
            69,
            "is not tidegate's control listener",
        ),
        ("pause", &store, "admin", 69, "is not tidegate's control listener"),
        ("status", &tidegate_at, "", 77, "refuses"),
        ("status", &tidegate_at, "stranger", 77, "refuses"),
        ("watch", &tidegate_at, "stranger", 77, "refuses"),
        ("pause", &tidegate_at, "reader", 77, "\"pause\""),
        ("resume", &tidegate_at, "reader", 77, "\"resume\""),
        (
            "override orders --switch ops --reason x",
            &tidegate_at,
            "reader",
            77,
            "\"override\"",
        ),
        ("drain --close", &tidegate_at, "reader", 77, "\"pause\""),
        (
            "pause oders",
            &tidegate_at,
            "admin",
            64,
            "did you mean \"orders\"?",
        ),
        (
            "resume oders",
            &tidegate_at,
            "admin",
            64,
            "did you mean \"orders\"?",
        ),
        (
            "wait oders --until paused",
            &tidegate_at,
            "admin",
            64,
            "did you mean \"orders\"?",
        ),
        (
            "override orders --switch ops --reason x",
            &tidegate_at,
            "admin",
            1,
            "does not hold",
        ),
        ("drain", &tidegate_at, "admin", 1, "nothing is held"),
        (
            "wait --until paused --timeout 100ms",
            &tidegate_at,
            "admin",
            1,
            "Not paused within 100ms",
        ),
        (
            "pause --until 2020-01-01T00:00:00Z",
            &tidegate_at,
            "admin",
            1,
            "422",
        ),
        ("status", &tidegate_at, "nowhere", 64, "No such file"),
        ("status", &tidegate_at, "two words", 64, "this is no token"),
        ("status", "ftp://localhost", "admin", 64, "expected a URL"),
        ("status", "http://ops.internal:9470", "admin", 64, "clear text"),
        (
            "pause --for soon",
            &tidegate_at,
            "admin",
            64,
            "expected a duration",
        ),
        (
            "pause --until tomorrow",
            &tidegate_at,
            "admin",
            64,
            "expected a time",
        ),
        ("puase", &tidegate_at, "admin", 64, "unrecognized subcommand"),
        ("wait", &tidegate_at, "admin", 64, "required arguments"),
        ("run", &tidegate_at, "", 64, "required arguments"),
    ];
    for (command, admin, token, code, words) in table {
        let token = match *token {
            "" => vec![],
            name => vec![
                "--token-file".to_owned(),
                site.path(name).to_str().unwrap().to_owned(),
            ],
        };
        let words_of = command.split(' ').map(str::to_owned);
        let ended = run(tidegate(
            words_of
                .chain(["--admin".into(), (*admin).to_owned()])
                .chain(token),
        ))
        .await;
        let here = format!("{command} at {admin}: {ended:#?}");
        assert_eq!(ended.code, Some(*code), "{here}");
        let told = ended
            .stderr
            .lines()
            .chain(ended.stdout.lines())
            .find(|line| line.contains(words));
        assert!(told.is_some(), "expected {words:?}: {here}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_do_what_they_say_and_a_hold_that_remains_is_not_a_success() {
    let (site, process, client) = with_tokens().await;
    let command = |line: &str| {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (admin, token) = (client.control.clone(), site.path("admin"));
        async move {
            let last = [
                "--admin".to_owned(),
                admin,
                "--token-file".into(),
                token.to_str().unwrap().to_owned(),
            ];
            run(tidegate(words.into_iter().chain(last))).await
        }
    };
    let ended = command("pause orders --reason maintenance --by ana").await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(
        ended.stdout.contains("orders  paused  nothing is in flight"),
        "{ended:#?}"
    );
    let told = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        told.contains("forgets this hold unless its state_dir is set"),
        "{ended:#?}"
    );
    for line in [
        "drain",
        "wait orders --until paused",
        "wait invoices --until running",
    ] {
        assert_eq!(command(line).await.code, Some(0), "{line}");
    }
    let ended = command("status").await;
    assert!(
        ended.stdout.contains("maintenance") && ended.stdout.contains("ana"),
        "{ended:#?}"
    );
    let ended = command("status --json").await;
    let status: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        status["streams"][0]["holds"][0]["actor"], "admin",
        "the token's name is who acted"
    );

    site.put("streams/orders", json!({ "IsPaused": true, "by": "ben" }));
    client.reads("ops", "paused").await;
    let ended = command("resume").await;
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(
        ended.stdout.contains("switch:ops") && ended.stdout.contains("ben"),
        "{ended:#?}"
    );
    // A flag that was flipped a moment ago is read before the answer.
    site.flag("streams/orders", false);
    let ended = command("resume").await;
    assert_eq!(
        (ended.code, ended.stdout.trim()),
        (Some(0), "Resumed: nothing holds any more."),
        "{}",
        ended.stderr
    );
    process.terminate();
    assert_eq!(process.end().await.code, Some(0));
}
