//! What has arrived at a sink, read while it grows: every number once, in order.
use anyhow::{Context, Result, bail, ensure};
use e2e::verdict::BATCH;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

/// The lines `{"n":0,…}`, `{"n":1,…}`, … of one file.
pub(crate) struct Ledger {
    path: PathBuf,
    read: u64,
    next: u64,
    /// How many came again after a kill.
    pub(crate) again: u64,
}

impl Ledger {
    pub(crate) fn new(path: PathBuf) -> Ledger {
        Ledger {
            path,
            read: 0,
            next: 0,
            again: 0,
        }
    }

    /// The number that comes next: as many are there.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn len(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |m| m.len())
    }

    /// Reads what has come. `killed` is whether a kill -9 may have brought a batch again since the last time.
    pub(crate) fn check(&mut self, killed: bool) -> Result<()> {
        if self.len() == 0 {
            return Ok(());
        }
        let name = self.path.display().to_string();
        let mut file = File::open(&self.path).with_context(|| name.clone())?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = String::new();
        // Half a line at the end may end in half a character; these lines are ASCII.
        file.read_to_string(&mut text).with_context(|| name.clone())?;
        let mut may_repeat = killed;
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let number = line
                .strip_prefix("{\"n\":")
                .and_then(|rest| rest.split([',', '}']).next()?.parse::<u64>().ok());
            let Some(number) = number else {
                bail!("{name}: a line that nobody wrote: {line:?}");
            };
            if number < self.next {
                let again = self.next - number;
                ensure!(may_repeat, "{name}: {number} came again, and no kill explains it");
                ensure!(
                    again <= BATCH as u64,
                    "{name}: {again} came again: more than a batch"
                );
                may_repeat = false;
                self.again += again;
            }
            ensure!(
                number <= self.next,
                "{name}: {} is missing, {number} came instead",
                self.next
            );
            self.next = number + 1;
            self.read += line.len() as u64;
        }
        Ok(())
    }
}
