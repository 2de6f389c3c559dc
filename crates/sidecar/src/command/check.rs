//! `tidegate check`: everything that is wrong with a configuration, and one read of every switch.
use super::configured;
use crate::cli::{ConfigArgs, exit};
use crate::config::Config;
use anyhow::Result;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;
use tidegate_gate::{Name, Reading};
use tidegate_providers::{Provider, Seen, Switch, read_once};

/// Key Vault's own limit: reads in ten seconds per vault and region.
const REPLICAS: f64 = 1000.0;

pub(super) async fn check(args: &ConfigArgs) -> Result<u8> {
    let config = match configured(args) {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let mut groups: BTreeMap<Name, (Box<dyn Provider>, Vec<Switch>)> = BTreeMap::new();
    for entry in &config.switches {
        let (switch, provider) = match entry.config.build(entry.streams.clone()) {
            Ok(built) => built,
            Err(error) => {
                super::complain(&format!("switch \"{}\": {error}", entry.config.name));
                return Ok(exit::CONFIG);
            }
        };
        let group = groups
            .entry(provider.id())
            .or_insert_with(|| (provider, Vec::new()));
        group.1.push(switch);
    }

    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: no mistakes found", args.config.display())?;
    let mut worst = exit::OK;
    let mut per_second = 0.0;
    for (id, (provider, switches)) in &mut groups {
        let keys: Vec<&str> = switches.iter().map(|s| &*s.key).collect();
        let limit = switches.iter().map(|s| s.timeout).max().unwrap_or_default();
        let interval = switches
            .iter()
            .map(|s| s.interval)
            .min()
            .unwrap_or(Duration::from_secs(1));
        per_second += 1.0 / interval.as_secs_f64();
        let seen = read_once(&mut **provider, &keys, limit).await;
        for (switch, seen) in switches.iter().zip(seen) {
            worst = worse(worst, code(&seen.reading));
            writeln!(
                out,
                "switch {}: {} ({id}, every {})",
                switch.name,
                told(&seen),
                humantime::format_duration(interval)
            )?;
        }
    }
    writeln!(
        out,
        "1,000 replicas send {:.0} requests a second, one for each of {} distinct secrets per poll",
        per_second * REPLICAS,
        groups.len(),
    )?;
    for line in forgotten(&config) {
        writeln!(out, "{line}")?;
    }
    Ok(worst)
}

fn told(seen: &Seen) -> String {
    match (&seen.reading, &seen.error) {
        (Reading::Good(flag, version), _) => {
            let warnings: String = flag.warnings.iter().map(|w| format!("; {w}")).collect();
            format!("{}, version {}{warnings}", seen.reading, version.id)
        }
        (reading, Some(error)) => format!("{reading}: {error}"),
        (reading, None) => reading.to_string(),
    }
}

fn code(reading: &Reading) -> u8 {
    match reading {
        Reading::Good(..) => exit::OK,
        Reading::Missing | Reading::Deleted | Reading::Disabled | Reading::Malformed(_) => exit::DATA,
        Reading::Denied => exit::DENIED,
        Reading::Throttled | Reading::Sealed | Reading::Unavailable | Reading::Stale => exit::UNAVAILABLE,
    }
}

/// Of several findings the one that a person must mend first: a refusal, then silence, then what is in the secret.
fn worse(a: u8, b: u8) -> u8 {
    let rank = |code| {
        [exit::OK, exit::DATA, exit::UNAVAILABLE, exit::DENIED]
            .iter()
            .position(|c| *c == code)
    };
    if rank(b) > rank(a) { b } else { a }
}

fn forgotten(config: &Config) -> Vec<String> {
    match &config.state_dir {
        Some(dir) => vec![format!("a restart remembers API holds, last readings and offsets, in {}", dir.display())],
        None => vec![
            "no state_dir: a restart forgets the control API's holds, the last good readings and file offsets".into(),
        ],
    }
}
