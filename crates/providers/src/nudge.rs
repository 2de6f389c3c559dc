//! "Poll now", with an answer when that has happened.
use std::sync::Arc;
use tokio::sync::watch;

/// Asks every loop of a [`crate::Poller`] to poll now.
#[derive(Clone, Debug)]
pub struct Nudger {
    asked: Arc<watch::Sender<u64>>,
    served: Vec<watch::Receiver<u64>>,
}

impl Nudger {
    /// Resolves once every loop has completed a poll that began after this call, or has refused to because its store
    /// asked to be left alone, or has ended. Takes at most two timeouts and 100 ms; dropping it takes nothing back.
    ///
    /// Waits for ever if the loops were never started.
    pub async fn poll_now(&self) {
        let mut ticket = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            ticket = *asked;
        });
        for served in &self.served {
            // An error means that the loop has ended: there is nothing more to wait for.
            let _ = served.clone().wait_for(|served| *served >= ticket).await;
        }
    }
}

/// One loop's side of it.
pub(crate) struct Nudged {
    /// Kept, so that the channel never closes while the loop runs.
    _asked: Arc<watch::Sender<u64>>,
    asking: watch::Receiver<u64>,
    served: watch::Sender<u64>,
}

impl Nudged {
    /// A nudger and the sides of `loops` loops.
    pub(crate) fn pairs(loops: usize) -> (Nudger, Vec<Nudged>) {
        let asked = Arc::new(watch::Sender::new(0));
        let sides: Vec<Nudged> = (0..loops)
            .map(|_| Nudged {
                _asked: asked.clone(),
                asking: asked.subscribe(),
                served: watch::Sender::new(0),
            })
            .collect();
        let served = sides.iter().map(|side| side.served.subscribe()).collect();
        (Nudger { asked, served }, sides)
    }

    /// To be taken before a poll begins: what was asked for by then, that poll serves.
    pub(crate) fn ticket(&mut self) -> u64 {
        *self.asking.borrow_and_update()
    }

    /// Says that everything up to `ticket` has been served.
    pub(crate) fn serve(&self, ticket: u64) {
        self.served.send_replace(ticket);
    }

    /// Resolves when somebody asks. Cancel-safe.
    pub(crate) async fn asked(&mut self) {
        // Cannot close: the sender is kept above.
        let _ = self.asking.changed().await;
    }
}
