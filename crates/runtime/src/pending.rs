//! The work of one attempt: what it has to write, how far it has come, and what is to be acknowledged then.
use crate::event::{Event, Poison, Token};
use bytes::Bytes;

/// What has met the stages and is not acknowledged yet.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) out: Vec<Event>,
    /// All of `out` in one piece, if it came as lines and met no stage.
    pub(crate) lines: Option<Bytes>,
    /// So many of `out` are settled: at the sink, or refused by it.
    pub(crate) written: usize,
    /// Its turn at the dead letter has come.
    pub(crate) dead: Option<(Event, Poison)>,
    /// The last admitted event, which no stage could digest: its turn comes when all of `out` is written, so that
    /// "in a row" means what it says.
    pub(crate) poison: Option<(Event, Poison)>,
    pub(crate) done: Vec<Token>,
    pub(crate) dead_count: usize,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.out.clear();
        self.lines = None;
        self.written = 0;
        self.dead = None;
        self.poison = None;
        self.done.clear();
        self.dead_count = 0;
    }

    /// Drops what is not written yet of events that are not `ours`, and their acknowledgements.
    pub(crate) fn retain(&mut self, ours: impl Fn(&Token) -> bool) {
        self.lines = None;
        let source = |token: &Token| Token { part: 0, ..*token };
        let mut at = 0;
        let written = self.written;
        self.out.retain(|event| {
            at += 1;
            at <= written || ours(&source(&event.token))
        });
        self.poison.take_if(|(event, _)| !ours(&event.token));
        self.done.retain(|token| ours(token));
        if self.done.is_empty() {
            self.clear();
        }
    }

    /// How many of the events, from the first, are done with: the sink has them, or the dead letter.
    pub(crate) fn settled(&self) -> usize {
        let place = |token: &Token| {
            let same = |t: &Token| {
                Token {
                    part: token.part,
                    ..*t
                } == *token
            };
            self.done.iter().position(same).unwrap_or(0)
        };
        match (&self.dead, self.out.get(self.written)) {
            // Refused, and not written down yet.
            (Some((event, _)), _) => place(&event.token),
            (None, Some(next)) => place(&next.token),
            (None, None) => self.done.len().saturating_sub(usize::from(self.poison.is_some())),
        }
    }
}
