//! What one poll means for one switch: the one place that turns a provider's outcome into a reading and a sentence.
use crate::{FlagError, ReadError, Secret, read_flag};
use tidegate_gate::{Name, Reading, Version};

/// One switch's view of one poll.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What was read.
    pub reading: Reading,
    /// Why it is no flag, for a person; nothing for a good reading.
    pub error: Option<Name>,
}

impl Seen {
    /// What `outcome` means for a switch that looks at `key`. `newest` is the newest version that was seen before.
    pub(crate) fn of(outcome: &Result<Secret, ReadError>, key: &str, newest: Option<&Version>) -> Seen {
        let (reading, error): (Reading, Name) = match outcome {
            Err(error) => (error.reading(), error.to_string().into()),
            Ok(secret) if is_stale(secret, newest) => (
                Reading::Stale,
                "the store served an older version than one seen before, as a replica that lags behind does"
                    .into(),
            ),
            Ok(secret) => match read_flag(secret, key) {
                Ok(flag) => {
                    return Seen {
                        reading: Reading::Good(flag, secret.version.clone()),
                        error: None,
                    };
                }
                Err(error @ FlagError::NoSuchField(_)) => (Reading::Missing, error.to_string().into()),
                Err(FlagError::Malformed(why)) => (Reading::Malformed(why.clone()), why),
            },
        };
        Seen {
            reading,
            error: Some(error),
        }
    }
}

/// Lower *and* created not later: after a metadata delete or a restored backup, version 1 is new.
pub(crate) fn is_stale(secret: &Secret, newest: Option<&Version>) -> bool {
    let Some(newest) = newest else { return false };
    match (secret.serial, newest.id.parse::<u64>()) {
        (Some(serial), Ok(before)) => {
            let created_later = secret.version.written > newest.written && newest.written.is_some();
            serial < before && !created_later
        }
        _ => false,
    }
}
