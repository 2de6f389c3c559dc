//! The walls of the house: which crate may know which.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Each crate of ours with those of ours that it names itself, optional ones too, but not for its tests alone.
fn ours() -> BTreeMap<String, Vec<String>> {
    let out = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--offline",
            "--locked",
            "--no-deps",
            "--format-version",
            "1",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let all: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let named = |package: &serde_json::Value| -> Vec<String> {
        let all = package["dependencies"].as_array().unwrap().iter();
        all.filter(|d| d["path"].is_string() && d["kind"].is_null())
            .map(|d| d["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let packages = all["packages"].as_array().unwrap().iter();
    packages
        .map(|p| (p["name"].as_str().unwrap().to_owned(), named(p)))
        .collect()
}

/// Every crate of ours that `package` is built from, other than itself.
fn behind(package: &str, ours: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut next = vec![package];
    while let Some(name) = next.pop() {
        for named in &ours[name] {
            if found.insert(named.clone()) {
                next.push(named);
            }
        }
    }
    found
}

#[test]
fn each_crate_knows_only_the_rooms_it_may_enter() {
    let gate = ["tidegate-gate", "tidegate-macros"];
    let table: [(&str, &[&str]); 8] = [
        ("tidegate-macros", &[]),
        ("tidegate-state", &[]),
        ("tidegate-devstore", &[]),
        ("tidegate-gate", &["tidegate-macros"]),
        ("tidegate-providers", &gate),
        ("tidegate-http", &gate),
        (
            "tidegate-runtime",
            &[
                "tidegate-gate",
                "tidegate-http",
                "tidegate-macros",
                "tidegate-state",
            ],
        ),
        (
            "tidegate-admin",
            &["tidegate-gate", "tidegate-http", "tidegate-macros"],
        ),
    ];
    let ours = ours();
    // The one that may know everything does, so that an empty answer is no consent.
    assert!(behind("tidegate", &ours).len() >= table.len(), "{ours:?}");
    for (package, allowed) in table {
        for found in behind(package, &ours) {
            assert!(
                allowed.contains(&found.as_str()),
                "{package} must not know {found}"
            );
        }
    }
}

#[test]
fn one_reqwest_one_hyper_one_rustls_and_ring_alone() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
    let count = |name: &str| lock.matches(&format!("name = \"{name}\"\n")).count();
    for name in ["reqwest", "hyper", "rustls", "ring"] {
        assert_eq!(count(name), 1, "{name}");
    }
    for name in ["aws-lc-rs", "native-tls", "serde_yaml", "rustls-pemfile"] {
        assert_eq!(count(name), 0, "{name}");
    }
}

#[test]
fn every_direct_dependency_says_what_it_is_for() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let manifest = std::fs::read_to_string(format!("{root}/Cargo.toml")).unwrap();
    let table = std::fs::read_to_string(format!("{root}/docs/dependencies.md")).unwrap();
    let told: Vec<&str> = table
        .lines()
        .filter_map(|l| l.strip_prefix("| ")?.split(" |").next())
        .flat_map(|names| names.split(", "))
        .collect();
    let listed = manifest
        .split("[workspace.dependencies]")
        .nth(1)
        .unwrap()
        .split("\n[")
        .next()
        .unwrap()
        .lines()
        .filter_map(|l| l.split_once('=').map(|(name, _)| name.trim()))
        .filter(|name| !name.starts_with('#') && !name.starts_with("tidegate"));
    for name in listed {
        assert!(told.contains(&name), "{name} is not in docs/dependencies.md");
    }
}

/// What `cargo deny check licenses sources` asks, for those who have not installed it: building that takes longer than all
/// the rest of what lands must pass.
#[test]
fn every_crate_is_from_the_one_registry_under_a_licence_that_deny_toml_allows() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let rules = std::fs::read_to_string(format!("{root}/deny.toml")).unwrap();
    let list = rules
        .split("\nallow = [")
        .nth(1)
        .unwrap()
        .split(']')
        .next()
        .unwrap();
    let allowed: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        // Only what this platform needs has been fetched.
        .args([
            "--filter-platform",
            &format!("{}-unknown-linux-gnu", std::env::consts::ARCH),
        ])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let all: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let mut seen = 0;
    for package in all["packages"].as_array().unwrap() {
        let Some(source) = package["source"].as_str() else {
            continue;
        };
        seen += 1;
        let name = &package["name"];
        assert!(source.starts_with("registry+"), "{name} is from {source}");
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(may(licence, &allowed), "{name}: {licence}");
    }
    assert!(seen > 100, "only {seen} crates");
}

/// Whether an expression of licences allows a choice from the list.
fn may(expression: &str, allowed: &[&str]) -> bool {
    let text = expression.replace('/', " OR ").replace(['(', ')'], "");
    // Precise where the parentheses of all expressions at hand are around a choice: every part of a sum must be allowed.
    text.split(" AND ")
        .all(|part| part.split(" OR ").any(|one| allowed.contains(&one.trim())))
}

#[test]
fn twin_a_licence_that_nobody_allowed_is_found() {
    let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"];
    assert!(may("MIT OR Apache-2.0", &allowed));
    assert!(may("GPL-3.0/MIT", &allowed));
    assert!(may("(MIT OR Apache-2.0) AND Unicode-3.0", &allowed));
    assert!(!may("(MIT OR Apache-2.0) AND OpenSSL", &allowed));
    assert!(!may("GPL-3.0", &allowed));
    assert!(!may("", &allowed));
}
