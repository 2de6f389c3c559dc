//! What any bytes from outside are tried on; see `fuzz/README.md`.
use crate::config;
use std::collections::BTreeSet;
use std::env::VarError;

/// In the environment of the configuration that is tried.
const MARK: &str = "hunter2hunter2";

fn env(name: &str) -> Result<String, VarError> {
    match name {
        "A" => Ok(MARK.into()),
        "B" => Ok("\"\n[x".into()),
        _ => Err(VarError::NotPresent),
    }
}

/// A configuration is refused with lines that name a place and show nothing of the environment, or it is one: names are unique,
/// and what a switch holds is there. Twice is the same as once.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match config::parse(text, "t.toml", &env) {
        Err(errors) => {
            assert!(!errors.problems.is_empty(), "refused without a reason");
            for problem in &errors.problems {
                let line = problem.to_string();
                assert!(line.starts_with("t.toml:"), "{line:?}");
                assert!(!line.contains(char::is_control), "{line:?}");
                assert!(text.contains(MARK) || !line.contains(MARK), "{line}");
            }
        }
        Ok(read) => {
            let mut names = BTreeSet::new();
            assert!(read.names().all(|name| names.insert(name)), "two of one name");
            for switch in &read.switches {
                assert!(!switch.streams.is_empty());
                assert!(switch.streams.iter().all(|stream| names.contains(&**stream)));
            }
            assert!(read.drain_delay < read.shutdown_grace);
            let again = config::parse(text, "t.toml", &env);
            assert_eq!(format!("{:?}", again.ok()), format!("{:?}", Some(read)));
        }
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn every_configuration_that_is_kept_is_read_or_refused_in_lines_that_name_a_place() {
        super::replay::replay("configuration", super::configuration);
    }
}
