//! What the suite needs of a store in order to try its provider.
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tidegate_gate::{Clock, Holds, Kind, Life, Member, Moment, Policy, Snapshot, State};
use tidegate_providers::{Poller, Provider, Switch};
use tokio_util::sync::CancellationToken;

/// A store with one secret that can be written, deleted and broken.
pub(crate) trait Bench: Send + Sync + Sized + 'static {
    fn open() -> impl Future<Output = Self> + Send;
    /// A provider of the secret; each call makes a new one.
    fn provider(&self) -> Box<dyn Provider>;
    /// A provider of another secret of the same store.
    fn other(&self) -> Box<dyn Provider>;
    /// Writes the secret: its fields, each with a text.
    fn set(&self, fields: &[(&str, &str)]) -> impl Future<Output = ()> + Send;
    /// The readings other than a flag that this store can be brought to; some in several ways.
    fn ailments(&self) -> Vec<(&'static str, &'static str)>;
    /// Brings it there, by one of those ways.
    fn ail(&self, way: &str) -> impl Future<Output = ()> + Send;
    /// Makes it well; the secret need not be there.
    fn heal(&self) -> impl Future<Output = ()> + Send;
}

pub(crate) async fn set_paused(bench: &impl Bench, paused: bool) {
    bench
        .set(&[("IsPaused", if paused { "true" } else { "false" })])
        .await;
}

/// A board with one stream and one switch, polled as fast as may be.
pub(crate) struct Watch {
    pub(crate) holds: Arc<Holds>,
    _member: Member,
    stop: CancellationToken,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

/// Long enough for a machine under load; nothing takes it unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

impl Watch {
    pub(crate) fn start(provider: Box<dyn Provider>, policy: Policy) -> Watch {
        let holds = Holds::new(Clock::new(|| Moment {
            wall: SystemTime::now(),
            mono: Instant::now(),
        }));
        let member = holds.register("orders", Kind::Stream).unwrap();
        member.set_life(Life::Up);
        let switch = Switch {
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(700),
            retry_max: Duration::from_millis(100),
            policy,
            ..Switch::new("ops", ["orders"])
        };
        let poller = Poller::bind(holds.clone(), vec![(switch, provider)], 1, ()).unwrap();
        let stop = CancellationToken::new();
        let tasks = poller.tasks(&stop).into_iter().map(tokio::spawn).collect();
        Watch {
            holds,
            _member: member,
            stop,
            tasks: Mutex::new(tasks),
        }
    }

    pub(crate) fn now(&self) -> Arc<Snapshot> {
        self.holds.snapshot()
    }

    pub(crate) fn state(&self) -> State {
        self.now().stream("orders").unwrap().state
    }

    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Snapshot) -> bool) {
        let mut seen = self.holds.watch();
        let came = tokio::time::timeout(PATIENCE, seen.wait_for(|now| is(now))).await;
        assert!(came.is_ok(), "never {what}: {:?}", self.now().switches);
    }

    pub(crate) async fn until_reading(&self, word: &str) {
        self.until(word, |now| now.switch("ops").unwrap().reading == word)
            .await;
    }

    pub(crate) async fn until_state(&self, state: State) {
        self.until(state.word(), |now| now.stream("orders").unwrap().state == state)
            .await;
    }

    pub(crate) async fn end(&self) {
        self.stop.cancel();
        let tasks: Vec<_> = self.tasks.lock().unwrap().drain(..).collect();
        for task in tasks {
            task.await.unwrap();
        }
    }
}
