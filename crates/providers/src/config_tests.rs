#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<SwitchConfig, String> {
    toml::from_str(text).map_err(|e| e.to_string())
}
fn build(text: &str) -> Result<(Switch, Box<dyn Provider>), String> {
    parse(text)?
        .build(vec!["orders".into()])
        .map_err(|e| e.to_string())
}
fn with(provider: &str) -> String {
    format!("name = \"ops\"\nstreams = [\"*\"]\n{provider}")
}
fn vault(lines: &str) -> String {
    with(&format!(
        "[vault]\naddress = \"https://vault.internal:8200\"\npath = \"streams/orders\"\nauth = {{ method = \"token\", file = \"/t\" }}\nca_file = \"{CA}\"\n{lines}"
    ))
}
/// Any certificate will do: the system's bundle may be absent where tests run.
const CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ca.pem");

#[test]
fn everything_has_the_documented_default() {
    let (switch, provider) = build(&vault("")).unwrap();
    assert_eq!(
        (switch.interval, switch.timeout, switch.retry_max),
        (
            Duration::from_secs(1),
            Duration::from_secs(2),
            Duration::from_secs(5)
        )
    );
    assert_eq!(&*switch.key, "IsPaused");
    assert_eq!(switch.at_start, AtStart::Paused);
    assert_eq!(switch.policy, Policy::default());
    assert_eq!(provider.kind(), "vault");
    assert_eq!(
        &*provider.id(),
        "vault kv2 secret/streams/orders at https://vault.internal:8200 as token in /t"
    );
}

#[test]
fn every_option_is_read() {
    let (switch, provider) = build(
        r#"
        name = "ops"
        streams = ["*"]
        interval = "250ms"
        timeout = "3s"
        retry_max = "1m"
        key = "orders:IsPaused"
        at_start = "last"
        on_missing = "pause"
        on_malformed = "pause"
        max_stale = "1h"
        on_stale = "pause"
        on_expiry = "keep"
        [vault]
        address = "http://vault.internal:8200/behind/"
        namespace = "team-a/"
        mount = "/kv/"
        path = "/streams/orders"
        kv = 1
        allow_plaintext = true
        auth = { method = "token", file = "/t" }
        "#,
    )
    .unwrap();
    assert_eq!(switch.interval, Duration::from_millis(250));
    assert_eq!(switch.retry_max, Duration::from_secs(60));
    assert_eq!(switch.at_start, AtStart::Last);
    assert_eq!(
        switch.policy,
        Policy {
            on_missing: OnAbsence::Pause,
            on_malformed: OnAbsence::Pause,
            max_stale: Duration::from_secs(3600),
            on_stale: OnAbsence::Pause,
            on_expiry: OnExpiry::Keep,
        }
    );
    assert_eq!(
        &*provider.id(),
        "vault kv1 kv/streams/orders in namespace team-a at http://vault.internal:8200/behind as token in /t"
    );
}

#[test]
fn what_is_wrong_is_named_with_what_was_expected() {
    let table = [
        (with(""), "exactly one of"),
        (
            with(
                "[vault]\naddress = \"x\"\npath = \"p\"\nauth = { method = \"token\", file = \"/t\" }\n[file]\npath = \"f\"",
            ),
            "exactly one of",
        ),
        (
            with("intervall = \"1s\"\n[file]\npath = \"f\""),
            "unknown field `intervall`",
        ),
        (
            with("interval = \"99ms\"\n[file]\npath = \"f\""),
            "100ms at least",
        ),
        (
            with("interval = \"soon\"\n[file]\npath = \"f\""),
            "expected a duration",
        ),
        (
            with("timeout = \"0s\"\n[file]\npath = \"f\""),
            "timeout: expected more than 0s",
        ),
        (
            with("key = \"\"\n[file]\npath = \"f\""),
            "key: expected field names",
        ),
        (
            with("key = \"a::b\"\n[file]\npath = \"f\""),
            "key: expected field names",
        ),
        (
            with("at_start = \"maybe\"\n[file]\npath = \"f\""),
            "expected one of `paused`, `running`, `last`",
        ),
        (
            with("on_missing = \"resume\"\n[file]\npath = \"f\""),
            "expected `keep` or `pause`",
        ),
        (vault("kv = 3"), "1 or 2"),
        (vault("mount = \"\""), "mount: expected names"),
        (vault("mount = \"a/../b\""), "mount: expected names"),
        (vault("skip_verify = true"), "unknown field `skip_verify`"),
        (vault("namespace = \"a\\nb\""), "namespace: expected"),
        (
            vault("").replace("https://", "http://"),
            "address: http:// would send the token in plaintext",
        ),
        (vault("").replace("https://", "ftp://"), "address: expected a URL"),
        (vault("").replace("https://", ""), "address: expected a URL"),
        (
            vault("").replace("https://", "https://me:MARKED@"),
            "no user name or password",
        ),
        (vault("").replace("8200", "8200/?token=MARKED"), "no ? or #"),
        (
            vault("").replace("streams/orders", "streams//orders"),
            "path: expected names",
        ),
        (vault("").replace("streams/orders", ".."), "path: expected names"),
        (vault("").replace("ca.pem", "none.pem"), "ca_file: "),
        (
            vault("").replace("ca.pem", "not-a-ca.pem"),
            "expected certificates in PEM form",
        ),
        (
            vault("").replace("file = \"/t\"", ""),
            "exactly one of env and file",
        ),
        (
            vault("").replace("file = \"/t\"", "file = \"/t\", env = \"T\""),
            "exactly one of env and file",
        ),
        (
            vault("").replace("file = \"/t\"", "env = \"TIDEGATE_NO_SUCH_VARIABLE\""),
            "TIDEGATE_NO_SUCH_VARIABLE is not set",
        ),
        (
            vault("").replace("method = \"token\"", "method = \"magic\""),
            "unknown variant `magic`",
        ),
    ];
    for (text, expected) in table {
        let error = build(&text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        assert!(error.contains(expected), "{text}\n→ {error}");
        assert!(!error.lines().next_back().unwrap().contains("MARKED"), "{error}");
    }
}

#[test]
fn plaintext_to_loopback_needs_no_leave() {
    for address in [
        "http://127.0.0.1:8200",
        "http://localhost:8200",
        "http://[::1]:8200",
        "http://127.9.9.9",
    ] {
        assert!(
            build(&vault("").replace("https://vault.internal:8200", address)).is_ok(),
            "{address}"
        );
    }
    for address in [
        "http://10.0.0.1:8200",
        "http://localhost.evil.example",
        "http://127.0.0.1.nip.example",
        "http://0.0.0.0",
    ] {
        assert!(
            build(&vault("").replace("https://vault.internal:8200", address)).is_err(),
            "{address}"
        );
    }
}

#[test]
fn two_switches_share_a_secret_only_if_everything_that_matters_is_equal() {
    let id = |text: String| build(&text).unwrap().1.id();
    let base = id(vault(""));
    assert_eq!(
        base,
        id(vault("mount = \"secret\"\nkv = 2").replace("orders\"", "orders/\""))
    );
    for other in [
        vault("mount = \"kv\""),
        vault("namespace = \"a\""),
        vault("kv = 1"),
        vault("").replace("8200", "8201"),
        vault("").replace("streams/orders", "streams/order"),
        vault("").replace("\"/t\"", "\"/u\""),
    ] {
        assert_ne!(base, id(other.clone()), "{other}");
    }
}

#[test]
fn every_way_to_log_in_is_read_and_no_debug_output_shows_a_role_id() {
    let auth = |line: &str| {
        build(&vault("").replace(
            "auth = { method = \"token\", file = \"/t\" }",
            &format!("auth = {{ {line} }}"),
        ))
    };
    let reader = |line: &str| {
        auth(line)
            .unwrap()
            .1
            .id()
            .split(" as ")
            .last()
            .unwrap()
            .to_owned()
    };
    let kubernetes = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let table = [
        (
            "method = \"kubernetes\", role = \"orders\"",
            format!("auth/kubernetes role orders with {kubernetes}"),
        ),
        (
            "method = \"kubernetes\", role = \"orders\", mount = \"/k8s/eu/\", token_file = \"/t\"",
            "auth/k8s/eu role orders with /t".to_owned(),
        ),
        (
            "method = \"jwt\", role = \"orders\", token_file = \"/t\"",
            "auth/jwt role orders with /t".to_owned(),
        ),
    ];
    for (line, expected) in table {
        assert_eq!(reader(line), expected);
    }
    let approle = |id: &str| format!("method = \"approle\", role_id = \"{id}\", secret_id_file = \"/s\"");
    assert!(!reader(&approle("MARKED")).contains("MARKED"));
    assert_ne!(reader(&approle("a")), reader(&approle("b")));
    let parsed = parse(&vault("").replace("method = \"token\", file = \"/t\"", &approle("MARKED"))).unwrap();
    assert!(!format!("{parsed:?}").contains("MARKED"));
    for wrong in [
        "method = \"approle\", role_id = \"x\"",
        "method = \"kubernetes\"",
        "method = \"jwt\", role = \"orders\"",
        "method = \"jwt\", role = \"orders\", token_file = \"/t\", file = \"/t\"",
        "method = \"jwt\", role = \"orders\", token_file = \"/t\", mount = \"..\"",
    ] {
        assert!(auth(wrong).is_err(), "{wrong}");
    }
}

fn key_vault(lines: &str) -> String {
    with(&format!(
        "[azure_key_vault]\nvault_url = \"https://ops.vault.azure.net\"\nsecret = \"orders--IsPaused\"\nca_file = \"{CA}\"\n{lines}"
    ))
}
const MANAGED: &str = "credential = { method = \"managed_identity\" }";

#[test]
fn key_vault_is_polled_each_five_seconds_and_every_credential_is_read() {
    let (switch, provider) = build(&key_vault(MANAGED)).unwrap();
    assert_eq!(switch.interval, Duration::from_secs(5));
    assert_eq!(provider.kind(), "azure_key_vault");
    let place = "azure_key_vault orders--IsPaused in https://ops.vault.azure.net";
    let table = [
        (MANAGED, "managed identity of the machine"),
        (
            "credential = { method = \"managed_identity\", client_id = \"c\" }",
            "managed identity c",
        ),
        (
            "credential = { method = \"workload_identity\" }",
            "workload identity of the pod of tenant of the pod with its own file at its own authority",
        ),
        (
            "credential = { method = \"client_secret\", tenant_id = \"t\", client_id = \"c\", secret_file = \"/s\" }",
            "application c of tenant t with /s at its own authority",
        ),
        (
            "credential = { method = \"developer_tools\" }",
            "whoever is logged in with az or azd",
        ),
    ];
    for (line, reader) in table {
        let id = build(&key_vault(line)).unwrap().1.id();
        assert_eq!(&*id, format!("{place} as {reader}"));
    }
}

#[test]
fn what_is_wrong_with_a_key_vault_is_named() {
    let whole = key_vault(MANAGED);
    let table = [
        (whole.replace("https://", "http://"), "vault_url: expected a URL"),
        (
            whole.replace("vault.azure.net", "vault.azure.net/secrets/x"),
            "vault_url: expected nothing but",
        ),
        (
            whole.replace("https://", "https://MARKED@"),
            "vault_url: expected nothing but",
        ),
        (
            whole.replace("orders--IsPaused", "orders/IsPaused"),
            "secret: expected a secret's name",
        ),
        (
            whole.replace("orders--IsPaused", ""),
            "secret: expected a secret's name",
        ),
        (
            whole.replace("managed_identity", "password"),
            "unknown variant `password`",
        ),
        (
            key_vault("credential = { method = \"client_secret\", tenant_id = \"t\", client_id = \"c\" }"),
            "missing field `secret_file`",
        ),
        (
            key_vault("credential = { method = \"workload_identity\", authority_host = \"http://x\" }"),
            "authority_host: expected a URL",
        ),
        (format!("{whole}\n[file]\npath = \"f\""), "exactly one of"),
    ];
    for (text, expected) in table {
        let error = build(&text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        assert!(error.contains(expected), "{text}\n→ {error}");
        assert!(!error.lines().next_back().unwrap().contains("MARKED"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_configuration_makes_it_panic(
        address in "(https?://)?[a-z0-9./:@\\[\\]%?#-]{0,30}", path in ".{0,20}", mount in ".{0,10}",
        namespace in proptest::option::of(".{0,10}"), kv in 0u8..4, key in ".{0,10}",
    ) {
        let config = SwitchConfig {
            key: key.into(),
            file: None,
            vault: Some(VaultConfig {
                address, namespace, mount, path, kv,
                ca_file: None,
                allow_plaintext: true,
                auth: VaultAuth::Token { env: None, file: Some("/t".into()) },
            }),
            ..parse(&with("[file]\npath = \"f\"")).unwrap()
        };
        let _ = config.build(vec![]).map(|(_, provider)| provider.id());
    }
}
