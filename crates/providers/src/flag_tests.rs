#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use super::*;
use proptest::prelude::*;
use std::time::{Duration, UNIX_EPOCH};
use tidegate_gate::Version;

fn secret(body: Body) -> Secret {
    Secret {
        body,
        version: Version {
            id: "1".into(),
            written: None,
        },
        serial: None,
        warnings: Vec::new(),
    }
}
fn text(text: &str, key: &str) -> Result<Flag, FlagError> {
    read_flag(&secret(Body::Text(text.into())), key)
}
/// As a KV store hands it out.
fn fields(json: &str, key: &str) -> Result<Flag, FlagError> {
    read_flag(&secret(Body::Fields(serde_json::from_str(json).unwrap())), key)
}
fn word(outcome: &Result<Flag, FlagError>) -> &'static str {
    match outcome {
        Ok(flag) if flag.paused => "paused",
        Ok(_) => "running",
        Err(FlagError::NoSuchField(_)) => "missing",
        Err(FlagError::Malformed(_)) => "malformed",
    }
}

#[test]
fn a_name_is_the_same_alone_and_before_a_colon_in_any_script() {
    let nested = r#"{"ΟΔΟΣ": {"IsPaused": true, "until": "2026-11-22T18:00:00Z"}}"#;
    let flag = fields(nested, "ΟΔΟΣ:IsPaused").unwrap();
    assert!(flag.paused && flag.until.is_some(), "{flag:?}");
    assert!(fields(nested, "οδοσ:ispaused").unwrap().paused);
}

#[test]
fn a_flag_is_read_as_the_table_says() {
    let table = [
        ("true", "IsPaused", "paused"),
        ("false", "IsPaused", "running"),
        (" TRUE\r\n", "IsPaused", "paused"),
        ("False", "IsPaused", "running"),
        ("tRuE", "anything", "paused"),
        (r#"{"IsPaused": true}"#, "IsPaused", "paused"),
        (r#" {"IsPaused": false} "#, "IsPaused", "running"),
        (r#"{"ispaused": "TRUE "}"#, "IsPaused", "paused"),
        (r#"{"ISPAUSED": "false"}"#, "isPaused", "running"),
        (r#"{"Other": true}"#, "other", "paused"),
        (r#"{"IsPaused": true}"#, "Other", "missing"),
        ("{}", "IsPaused", "missing"),
        // nesting as in .NET configuration
        (r#"{"orders": {"IsPaused": true}}"#, "orders:IsPaused", "paused"),
        (
            r#"{"Orders": {"Eu": {"ispaused": true}}}"#,
            "orders:eu:IsPaused",
            "paused",
        ),
        (r#"{"orders:IsPaused": true}"#, "orders:IsPaused", "paused"),
        (
            r#"{"orders:eu": {"IsPaused": true}}"#,
            "orders:eu:IsPaused",
            "paused",
        ),
        (r#"{"orders": {"IsPaused": true}}"#, "IsPaused", "missing"),
        (r#"{"orders": true}"#, "orders:IsPaused", "missing"),
        (r#"{"ordersIsPaused": true}"#, "orders:IsPaused", "missing"),
        // two equal names
        (r#"{"IsPaused": true, "ispaused": true}"#, "IsPaused", "malformed"),
        (
            r#"{"IsPaused": true, "IsPaused": false}"#,
            "IsPaused",
            "malformed",
        ),
        (
            r#"{"a": {"IsPaused": true}, "a:IsPaused": false}"#,
            "a:IsPaused",
            "malformed",
        ),
        (
            r#"{"a": {"IsPaused": true}, "A": {"other": 1}}"#,
            "a:IsPaused",
            "paused",
        ),
        // everything else
        ("yes", "IsPaused", "malformed"),
        ("1", "IsPaused", "malformed"),
        ("0", "IsPaused", "malformed"),
        ("on", "IsPaused", "malformed"),
        ("", "IsPaused", "malformed"),
        ("   ", "IsPaused", "malformed"),
        ("\"true\"", "IsPaused", "malformed"),
        ("true true", "IsPaused", "malformed"),
        ("truе", "IsPaused", "malformed"), // a Cyrillic letter
        ("[true]", "IsPaused", "malformed"),
        ("null", "IsPaused", "malformed"),
        (r#"{"IsPaused": true"#, "IsPaused", "malformed"),
        (r#"{"IsPaused": true} x"#, "IsPaused", "malformed"),
        (r#"{"IsPaused": 1}"#, "IsPaused", "malformed"),
        (r#"{"IsPaused": "yes"}"#, "IsPaused", "malformed"),
        (r#"{"IsPaused": null}"#, "IsPaused", "malformed"),
        (r#"{"IsPaused": [true]}"#, "IsPaused", "malformed"),
        (r#"{"IsPaused": {"IsPaused": true}}"#, "IsPaused", "malformed"),
        (r#"{"IsPaused": ""}"#, "IsPaused", "malformed"),
    ];
    for (value, key, expected) in table {
        assert_eq!(word(&text(value, key)), expected, "text {value} under {key}");
        if value.trim().starts_with('{') && serde_json::from_str::<Fields>(value).is_ok() {
            assert_eq!(word(&fields(value, key)), expected, "fields {value} under {key}");
        }
    }
}

#[test]
fn two_megabytes_of_text_are_malformed() {
    let spaces = " ".repeat(2 << 20);
    assert_eq!(word(&text(&format!("true{spaces}"), "IsPaused")), "malformed");
    let deep = format!("{}true{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    assert_eq!(word(&text(&deep, "IsPaused")), "malformed");
}

#[test]
fn reason_author_and_end_stand_beside_the_flag() {
    let flag = fields(
        r#"{"orders": {"IsPaused": true, "Reason": "db\u0007 move", "BY": "ana", "until": "2026-11-22T18:00:00Z"}, "reason": "x"}"#,
        "orders:ispaused",
    )
    .unwrap();
    assert_eq!(flag.reason.as_deref(), Some("db move"));
    assert_eq!(flag.by.as_deref(), Some("ana"));
    assert_eq!(flag.until, Some(UNIX_EPOCH + Duration::from_secs(1_795_370_400)));
    assert!(flag.warnings.is_empty());
    let offset = text(
        r#"{"IsPaused": true, "until": "2026-11-22T20:00:00+02:00"}"#,
        "IsPaused",
    )
    .unwrap();
    assert_eq!(offset.until, flag.until);
}

#[test]
fn a_valid_flag_wins_over_what_is_wrong_beside_it() {
    for (beside, warnings) in [
        (r#""until": "tomorrow""#, 1),
        (r#""until": "2026-11-22T18:00:00""#, 1),
        (r#""until": "2026-13-45T18:00:00Z""#, 1),
        (r#""until": 1795370400"#, 1),
        (r#""until": ["2026-11-22T18:00:00Z"]"#, 1),
        (
            r#""until": "2026-11-22T18:00:00Z", "UNTIL": "2027-11-22T18:00:00Z""#,
            1,
        ),
        (r#""until": """#, 0),
        (r#""until": null"#, 0),
        (r#""reason": 7"#, 1),
        (r#""reason": {"a": 1}, "by": true"#, 2),
        (r#""reason": "", "by": null"#, 0),
        (r#""extra": 7"#, 0),
    ] {
        let flag = text(&format!(r#"{{"IsPaused": true, {beside}}}"#), "IsPaused").unwrap();
        assert!(flag.paused);
        assert_eq!(
            (flag.until, &flag.reason, &flag.by),
            (None, &None, &None),
            "{beside}"
        );
        assert_eq!(flag.warnings.len(), warnings, "{beside}: {:?}", flag.warnings);
    }
}

#[test]
fn an_error_names_the_key_and_what_was_expected_and_never_the_value() {
    for value in [
        "MARKED",
        r#"{"IsPaused": "MARKED"}"#,
        r#"{"MARKED": 1, "IsPaused": "MARKED"#,
        r#"{"MARKED": true}"#,
    ] {
        let error = text(value, "IsPaused").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("MARKED"), "{error}");
        assert!(error.to_string().contains("IsPaused"), "{error}");
    }
    let flag = text(
        r#"{"IsPaused": true, "until": "MARKED", "by": ["MARKED"]}"#,
        "IsPaused",
    )
    .unwrap();
    assert!(!format!("{:?}", flag.warnings).contains("MARKED"));
}

#[test]
fn no_debug_output_shows_a_value() {
    let shown = format!(
        "{:?} {:?}",
        secret(Body::Text("MARKED".into())),
        secret(Body::Fields(
            serde_json::from_str(r#"{"a": "MARKED", "b": {"c": "MARKED"}}"#).unwrap()
        ))
    );
    assert!(!shown.contains("MARKED"), "{shown}");
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("null".to_owned()),
        Just("\"true\"".to_owned()),
        "[0-9]{1,5}",
        "\"[a-zA-Z:.]{0,8}\"",
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("[{}]", all.join(","))),
            prop::collection::vec(
                (
                    prop_oneof![
                        Just("IsPaused".to_owned()),
                        Just("until".to_owned()),
                        Just("reason".to_owned()),
                        "[a-zA-Z:]{0,6}"
                    ],
                    inner
                ),
                0..5
            )
            .prop_map(|all| {
                let all: Vec<_> = all
                    .into_iter()
                    .map(|(name, value)| format!("\"{name}\":{value}"))
                    .collect();
                format!("{{{}}}", all.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]
    #[test]
    fn no_text_makes_it_panic(value in ".{0,200}", key in ".{0,20}") {
        let _ = text(&value, &key);
    }

    #[test]
    fn no_object_makes_it_panic_and_only_a_boolean_is_a_flag(value in json(), key in "(IsPaused|[a-zA-Z:]{1,8})") {
        if let Ok(flag) = text(&value, &key) {
            let lower = value.to_lowercase();
            prop_assert!(lower.contains(if flag.paused { "true" } else { "false" }), "{value}");
        }
    }
}
