//! The walls of the house: which crate may know which.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use std::process::Command;

/// Every crate of ours that `package` is built from, other than itself.
fn ours_behind(package: &str) -> Vec<String> {
    let out = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--package",
            package,
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut names: Vec<String> = String::from_utf8(out.stdout)
        .unwrap()
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .filter(|n| n.starts_with("tidegate") && *n != package)
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
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
    for (package, allowed) in table {
        for found in ours_behind(package) {
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
