//! Who got what, how often.
use std::collections::BTreeMap;

/// How often each number came.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<usize, usize>);

impl Tally {
    pub(crate) fn of<'a>(bodies: impl IntoIterator<Item = &'a str>) -> Tally {
        let mut tally = Tally::default();
        for body in bodies {
            tally.add(body);
        }
        tally
    }

    pub(crate) fn add(&mut self, body: &str) {
        let number = body
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("{body:?} is no event of ours"));
        *self.0.entry(number).or_default() += 1;
    }

    /// So many of `0..n` never came.
    pub(crate) fn lost(&self, n: usize) -> usize {
        (0..n).filter(|k| !self.0.contains_key(k)).count()
    }

    /// So many came more than once, counted each time.
    pub(crate) fn repeated(&self) -> usize {
        self.0.values().map(|times| times - 1).sum()
    }
}
