//! What is in `deploy/` is what this program takes: every configuration there is read by the program's own rules.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use std::collections::BTreeSet;
use std::env::VarError;
use std::fs;
use std::path::{Path, PathBuf};
use tidegate::config;

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The files under `deploy/` with this ending.
fn deployed(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy")),
        &mut found,
    );
    found.retain(|path| path.to_str().unwrap().ends_with(ending));
    assert!(!found.is_empty(), "{ending}");
    found
}

fn loads(text: &str, what: &Path) {
    let read = config::parse(text, &what.display().to_string(), &|_| Err(VarError::NotPresent));
    let config = read.unwrap_or_else(|errors| panic!("{errors}"));
    assert!(
        !config.switches.is_empty(),
        "{}: nothing could be flipped",
        what.display()
    );
}

#[test]
fn every_configuration_in_the_manifests_loads() {
    let all = deployed(".toml");
    assert!(all.len() >= 5, "{all:?}");
    for path in all {
        loads(&fs::read_to_string(&path).unwrap(), &path);
    }
}

#[test]
fn every_configuration_in_the_documented_values_of_the_chart_loads() {
    let mut count = 0;
    for path in deployed(".yaml") {
        let text = fs::read_to_string(&path).unwrap();
        let Some((_, block)) = text.split_once("\n  config: |\n") else {
            continue;
        };
        let lines = block
            .lines()
            .take_while(|l| l.is_empty() || l.starts_with("    "));
        loads(
            &lines.map(|l| format!("{}\n", l.trim_start())).collect::<String>(),
            &path,
        );
        count += 1;
    }
    assert!(count >= 6, "{count}");
}

#[test]
fn the_image_has_every_feature_there_is_but_the_dev_store() {
    let manifest: toml::Table = include_str!("../Cargo.toml").parse().unwrap();
    let features = manifest["features"].as_table().unwrap();
    let named = |name: &str| features[name].as_array().unwrap().iter();
    let shipped: BTreeSet<&str> = features
        .keys()
        .map(String::as_str)
        .filter(|name| !["default", "devstore"].contains(name))
        // What another one brings along need not be named.
        .filter(|name| {
            !features
                .keys()
                .any(|other| named(other).any(|n| n.as_str() == Some(*name)) && other != "default")
        })
        .collect();
    let dockerfile = include_str!("../../../deploy/Dockerfile");
    let line = dockerfile
        .lines()
        .find_map(|line| line.strip_prefix("ARG FEATURES=\""))
        .unwrap();
    let built: BTreeSet<&str> = line.trim_end_matches('"').split(',').collect();
    assert_eq!(built, shipped);
    assert!(shipped.contains("kafka-tls"), "{shipped:?}");
}
