//! Nothing that stands in a configuration or on a command line makes the program panic, and every refusal is a line that
//! a person can read.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, RngAlgorithm, TestRng, TestRunner};
use std::env::VarError;
use std::sync::LazyLock;
use tidegate::{cli, config};

const EXAMPLE: &str = include_str!("../../../deploy/config.example.toml");
const CASES: u32 = 10_000;

fn env(name: &str) -> Result<String, VarError> {
    match name {
        "A" => Ok("hunter2hunter2".into()),
        "B" => Ok("\"\n[x".into()),
        _ => Err(VarError::NotPresent),
    }
}

fn parse(text: &str) {
    if let Err(errors) = config::parse(text, "t.toml", &env) {
        assert!(!errors.problems.is_empty(), "refused without a reason:\n{text}");
        for problem in &errors.problems {
            let line = problem.to_string();
            assert!(!line.contains('\n') && line.starts_with("t.toml:"), "{line:?}");
            assert!(!line.contains("hunter2"), "{line}\n{text}");
        }
    }
}

/// The same cases every time: a failure in one run is a failure in the next.
fn check<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value)) {
    let settings = Cases {
        cases,
        failure_persistence: None,
        ..Cases::default()
    };
    let mut runner = TestRunner::new_with_rng(settings, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner
        .run(strategy, |value| {
            test(value);
            Ok(())
        })
        .unwrap();
}

/// Keys, values and punctuation of TOML, most of them known to tidegate.
fn words() -> impl Strategy<Value = String> {
    static KNOWN: LazyLock<Vec<&str>> = LazyLock::new(|| {
        let words = EXAMPLE.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|w| !w.is_empty()).collect()
    });
    prop_oneof![
        4 => prop::sample::select(&**KNOWN).prop_map(str::to_owned),
        4 => prop::sample::select(vec![
            "=", " = ", "\n", "\n", "\n", "[", "]", "[[", "]]", "{", "}", ",", ".", "\"", "'", "\"\"\"", "#", "\\", "${A}", "${B}",
            "${GONE}", "${", "$${", "[control]\n", "[[switch]]\n", "[[stream]]\n", "[[gate]]\n", "[switch.vault]\n",
            "[stream.source]\n", "[stream.sink]\n", "type = \"file\"\n", "name = \"a\"\n", "streams = [\"*\"]\n",
            "\"1s\"", "\"-1s\"", "\"99999999999999999999s\"", "true", "nan", "-inf", "1e400", "0x7fffffffffffffff",
            "99999999999999999999999999999999999999999", "2026-11-22T18:00:00Z", "25:61", "\u{feff}", "\r", "\u{0}", "é",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

#[test]
fn random_text_is_refused_and_never_panics() {
    let text = prop::collection::vec(words(), 0..40).prop_map(|words| words.concat());
    check(CASES / 4, &text, |text| parse(&text));
}

/// What is done to a text.
#[derive(Clone, Debug)]
enum Edit {
    Cut(prop::sample::Index, prop::sample::Index),
    Insert(prop::sample::Index, String),
    DropLine(prop::sample::Index),
    RepeatLine(prop::sample::Index),
    MoveLine(prop::sample::Index, prop::sample::Index),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let index = any::<prop::sample::Index>;
    let edit = prop_oneof![
        (index(), index()).prop_map(|(a, b)| Edit::Cut(a, b)),
        (index(), words()).prop_map(|(a, w)| Edit::Insert(a, w)),
        index().prop_map(Edit::DropLine),
        index().prop_map(Edit::RepeatLine),
        (index(), index()).prop_map(|(a, b)| Edit::MoveLine(a, b)),
    ];
    prop::collection::vec(edit, 1..6)
}

/// Without comments: edits would mostly hit those.
fn example() -> String {
    let code = EXAMPLE
        .lines()
        .map(|l| l.split(" #").next().unwrap())
        .filter(|l| !l.starts_with('#') && !l.is_empty());
    let text: String = code.map(|l| format!("{l}\n")).collect();
    // One jq expression is enough: the compiler reads its whole library for each.
    let (first, rest) = text.split_once("[[stream.stage]]\ntype = \"map\"").unwrap();
    let (_, last) = rest.split_once("[stream.sink]").unwrap();
    format!("{first}[stream.sink]{last}")
}

fn edited(mut text: String, edits: &[Edit]) -> String {
    for edit in edits {
        let lines: Vec<String> = text.lines().map(|l| format!("{l}\n")).collect();
        let char_at = |at: &prop::sample::Index| {
            text.char_indices()
                .map(|(i, _)| i)
                .nth(at.index(text.chars().count().max(1)))
                .unwrap_or(0)
        };
        let mut lines = lines;
        match edit {
            _ if lines.is_empty() => {}
            Edit::Cut(a, b) => {
                let from = char_at(a);
                let to = text[from..]
                    .char_indices()
                    .map(|(i, _)| from + i)
                    .nth(b.index(12))
                    .unwrap_or(text.len());
                text.replace_range(from..to, "");
                continue;
            }
            Edit::Insert(a, word) => {
                let at = char_at(a);
                text.insert_str(at, word);
                continue;
            }
            Edit::DropLine(a) => drop(lines.remove(a.index(lines.len()))),
            Edit::RepeatLine(a) => {
                let at = a.index(lines.len());
                lines.insert(at, lines[at].clone());
            }
            Edit::MoveLine(a, b) => {
                let line = lines.remove(a.index(lines.len()));
                lines.insert(b.index(lines.len() + 1), line);
            }
        }
        text = lines.concat();
    }
    text
}

#[test]
fn the_example_with_random_edits_never_panics() {
    let example = example();
    check(CASES / 2, &edits(), |edits| {
        parse(&edited(example.clone(), &edits))
    });
}

fn value() -> impl Strategy<Value = toml::Value> {
    let leaf = prop_oneof![
        words().prop_map(toml::Value::String),
        any::<String>().prop_map(toml::Value::String),
        any::<i64>().prop_map(toml::Value::Integer),
        any::<f64>().prop_map(toml::Value::Float),
        any::<bool>().prop_map(toml::Value::Boolean),
        Just(toml::Value::Datetime("1979-05-27T07:32:00Z".parse().unwrap())),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(toml::Value::Array),
            prop::collection::btree_map(words(), inner, 0..4)
                .prop_map(|map| toml::Value::Table(map.into_iter().collect())),
        ]
    })
}

/// Replaces, adds or takes out one value somewhere below.
fn disturb(root: &mut toml::Value, way: &[prop::sample::Index], key: &str, new: Option<toml::Value>) {
    let mut here = root;
    for step in way {
        let leaf = match here {
            toml::Value::Table(table) => table.is_empty(),
            toml::Value::Array(list) => list.is_empty(),
            _ => true,
        };
        if leaf {
            break;
        }
        here = match here {
            toml::Value::Table(table) => {
                let at = step.index(table.len());
                table.iter_mut().nth(at).unwrap().1
            }
            toml::Value::Array(list) => {
                let at = step.index(list.len());
                &mut list[at]
            }
            _ => break,
        };
    }
    match (here, new) {
        (toml::Value::Table(table), Some(new)) => drop(table.insert(key.to_owned(), new)),
        (toml::Value::Table(table), None) => drop(table.remove(key)),
        (here, Some(new)) => *here = new,
        (here, None) => *here = toml::Value::Array(Vec::new()),
    }
}

#[test]
fn random_values_under_known_keys_never_panic() {
    let example: toml::Value = toml::Value::Table(example().parse().unwrap());
    let way = prop::collection::vec(any::<prop::sample::Index>(), 0..6);
    let change = prop::collection::vec((way, words(), prop::option::weighted(0.9, value())), 1..4);
    check(CASES / 4, &change, |changes| {
        let mut changed = example.clone();
        for (way, key, new) in changes {
            disturb(&mut changed, &way, &key, new);
        }
        if let Ok(text) = toml::to_string(&changed) {
            parse(&text);
        }
    });
}

#[test]
fn random_command_lines_never_panic_and_bad_use_ends_with_64() {
    let word = prop_oneof![
        6 => prop::sample::select(vec![
            "demo", "run", "check", "devstore", "pause", "resume", "override", "status", "watch", "drain", "wait", "orders",
            "--admin", "--token-file", "--ca-file", "-v", "-vv", "--log", "--config", "--reason", "--by", "--until", "--for",
            "--no-wait", "--timeout", "--json", "--fleet", "--close", "--switch", "--", "-", "=", "running", "paused", "30s", "1h",
            "2026-11-22T18:00:00Z", "http://127.0.0.1:1", "unix:/x", "--help", "--version", "-h",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    check(CASES, &prop::collection::vec(word, 0..8), |words| {
        let line = std::iter::once("tidegate".to_owned()).chain(words.iter().cloned());
        if let Err(instead) = cli::read(line, false) {
            let asked = !instead.to_stderr;
            assert_eq!(
                instead.code,
                if asked { 0 } else { 64 },
                "{words:?}: {}",
                instead.text
            );
            assert!(!instead.text.is_empty());
        }
    });
}
