//! Looking at the switches for a drill: a fresh read, what the credential may do, and what a flip would come to.
use crate::{Access, Seen};
use std::time::Duration;
use tidegate_gate::Name;
use tokio::sync::{mpsc, oneshot};

/// What one look at one switch found.
#[derive(Clone, Debug)]
pub struct Examined {
    /// The switch.
    pub switch: Name,
    /// The streams it holds.
    pub streams: Vec<Name>,
    /// What the read saw.
    pub seen: Seen,
    /// How long the read took.
    pub took: Duration,
    /// The longest between the starts of two polls while the store answers.
    pub interval: Duration,
    /// The store asked to be left alone, so that this is the read before.
    pub old: bool,
    /// What the credential may do.
    pub access: Access,
    /// Whether the streams would be held if the flag that was read said so, and let go if it said the opposite; if
    /// not, why.
    pub acts: Result<(), Name>,
}

/// Asks every loop of a [`crate::Poller`] for an examination.
#[derive(Clone, Debug)]
pub struct Examiner(Vec<mpsc::Sender<Reply>>);

/// Where a loop sends what it has found.
pub(crate) type Reply = oneshot::Sender<Vec<Examined>>;

/// Crowds are answered by one read; whoever comes on top of so many waits.
const WAITING: usize = 16;

impl Examiner {
    /// An examiner of `loops` loops, and the sides of these.
    pub(crate) fn pairs(loops: usize) -> (Examiner, Vec<mpsc::Receiver<Reply>>) {
        let (ask, asked) = (0..loops).map(|_| mpsc::channel(WAITING)).unzip();
        (Examiner(ask), asked)
    }

    /// Has every loop poll, and ask what its credential may do; resolves when all have, within two timeouts and
    /// 100 ms each. The polls count as any other: what they find is applied. A loop that has ended is left out.
    ///
    /// Waits for ever if the loops were never started; dropping it takes nothing back.
    pub async fn examine(&self) -> Vec<Examined> {
        let one = |ask: mpsc::Sender<Reply>| async move {
            let (reply, answer) = oneshot::channel();
            match ask.send(reply).await {
                Ok(()) => answer.await.unwrap_or_default(),
                Err(_) => Vec::new(),
            }
        };
        let all = self.0.iter().cloned().map(one);
        futures_util::future::join_all(all)
            .await
            .into_iter()
            .flatten()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;
    use crate::{Access, Fixed, Poller, ReadError, Switch};
    use tidegate_gate::{Clock, Holds, Kind, Moment};
    use tokio_util::sync::{CancellationToken, DropGuard};

    fn polling(text: &str) -> (Examiner, crate::FixedHand, DropGuard) {
        let holds = Holds::new(Clock::new(|| Moment {
            wall: std::time::SystemTime::now(),
            mono: tokio::time::Instant::now().into_std(),
        }));
        holds.register("orders", Kind::Stream).unwrap();
        let (fixed, hand) = Fixed::new("f", text);
        let poller = Poller::bind(
            holds,
            vec![(Switch::new("ops", ["orders"]), Box::new(fixed))],
            0,
            (),
        )
        .unwrap();
        let (examiner, stop) = (poller.examiner(), CancellationToken::new());
        for task in poller.tasks(&stop) {
            tokio::spawn(task);
        }
        (examiner, hand, stop.drop_guard())
    }

    #[tokio::test(start_paused = true)]
    async fn an_examination_reads_anew_and_applies_what_it_reads() {
        let (examiner, hand, _stop) = polling("false");
        assert_eq!(examiner.examine().await[0].seen.reading.word(), "running");
        hand.set_text("true");
        let found = examiner.examine().await;
        assert_eq!(found[0].seen.reading.word(), "paused");
        assert_eq!(found[0].acts, Ok(()));
        assert!(
            matches!(found[0].access, Access::Unknown(_)),
            "{:?}",
            found[0].access
        );
        hand.fail(ReadError::Denied("no".into()));
        let found = examiner.examine().await;
        assert_eq!(found[0].seen.reading.word(), "denied");
        assert!(found[0].acts.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flag_whose_end_has_passed_would_hold_nothing_where_versions_have_no_time() {
        let (examiner, _hand, _stop) = polling(r#"{"IsPaused": false, "until": "2020-01-01T00:00:00Z"}"#);
        let found = examiner.examine().await;
        assert!(found[0].acts.as_ref().unwrap_err().contains("until"), "{found:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_asks_to_be_left_alone_is_not_read_for_an_examination() {
        let (examiner, hand, _stop) = polling("false");
        examiner.examine().await;
        hand.fail(ReadError::Throttled {
            why: "429".into(),
            retry_after: Some(Duration::from_secs(30)),
        });
        assert!(!examiner.examine().await[0].old);
        hand.set_text("true");
        let found = examiner.examine().await;
        assert!(found[0].old, "{found:?}");
        assert_eq!(found[0].seen.reading.word(), "throttled");
    }

    #[tokio::test(start_paused = true)]
    async fn loops_that_have_ended_are_left_out() {
        let (examiner, _hand, stop) = polling("false");
        examiner.examine().await;
        drop(stop);
        assert!(examiner.examine().await.is_empty());
    }
}
