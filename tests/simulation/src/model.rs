//! When should a stream stand still? The same rules once more, as short as they can be said, and sharing no code with
//! what they judge but the words for options.
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use tidegate_gate::{OnAbsence, OnExpiry};
use tidegate_providers::AtStart;
use tokio::time::Instant;

/// Two things that fall on the same tick of the clock may happen in either order.
const TICK: Duration = Duration::from_millis(2);

/// How long an end that the clock has jumped over may go unnoticed.
const LOOK: Duration = Duration::from_secs(1);

/// What one read of a secret came to.
#[derive(Clone, Debug)]
pub(crate) enum Observation {
    /// A flag.
    Flag(Flag),
    /// Neither secret nor field, or deleted.
    Absent,
    /// A secret that is no flag.
    Malformed,
    /// Everything else that says nothing about the wish.
    Useless,
}

#[derive(Clone, Debug)]
pub(crate) struct Flag {
    pub(crate) paused: bool,
    pub(crate) until: Option<SystemTime>,
    pub(crate) version: u64,
    pub(crate) written: SystemTime,
}

/// One switch's options, as the model needs them.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) streams: Vec<usize>,
    pub(crate) at_start: AtStart,
    pub(crate) on_missing: OnAbsence,
    pub(crate) on_malformed: OnAbsence,
    pub(crate) on_stale: OnAbsence,
    pub(crate) on_expiry: OnExpiry,
    pub(crate) max_stale: Duration,
}

#[derive(Clone, Debug)]
struct Switch {
    options: Options,
    /// The last flag that counted asked for a pause.
    paused: bool,
    good_at: Instant,
    /// The version of the last flag.
    version: Option<u64>,
    /// The last read was no flag: from `good_at + max_stale` on, `on_stale` counts.
    blind: bool,
    /// While a read is under way nobody asks how old the last one is: its outcome decides.
    reading: bool,
    /// Set aside where, at which version.
    aside: BTreeMap<usize, Option<u64>>,
    /// Holds where, by which version.
    holds: BTreeMap<usize, Option<u64>>,
}

/// What an operator's hold has: its end.
type Api = Option<SystemTime>;

/// The whole process.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    switches: Vec<Switch>,
    api: BTreeMap<usize, Api>,
    /// The clock was set, and ends that it has jumped over, or come near to, are noticed by then.
    settled_at: Option<Instant>,
}

impl Model {
    /// A process starts. `last` is what it remembers of each switch.
    pub(crate) fn start(
        options: &[Options],
        last: &[Option<Flag>],
        api: BTreeMap<usize, Api>,
        now: Instant,
    ) -> Model {
        let switch = |(options, last): (&Options, &Option<Flag>)| {
            let remembered = last.as_ref().filter(|_| options.at_start == AtStart::Last);
            let (holds, version) = match (options.at_start, remembered) {
                (AtStart::Running, _) => (false, None),
                (_, Some(flag)) => (flag.paused, Some(flag.version)),
                (_, None) => (true, None),
            };
            let on = options.streams.iter().map(|s| (*s, version));
            Switch {
                holds: on.filter(|_| holds).collect(),
                options: options.clone(),
                paused: remembered.is_some_and(|flag| flag.paused),
                good_at: now,
                version,
                blind: false,
                reading: false,
                aside: BTreeMap::new(),
            }
        };
        Model {
            switches: options.iter().zip(last).map(switch).collect(),
            api,
            settled_at: None,
        }
    }

    /// The wall clock is another from now on.
    pub(crate) fn jumped(&mut self, now: Instant, wall: SystemTime) {
        let soon = wall + LOOK + TICK;
        if self.api.values().flatten().any(|until| *until <= soon) {
            self.settled_at = Some(now + LOOK + TICK);
        }
    }

    /// A switch's secret is being read.
    pub(crate) fn read_begins(&mut self, switch: usize, now: Instant) {
        self.grow_old(now);
        self.switches[switch].reading = true;
    }

    /// One read of a switch's secret is applied.
    pub(crate) fn observe(&mut self, switch: usize, seen: &Observation, now: Instant, wall: SystemTime) {
        self.grow_old(now);
        let s = &mut self.switches[switch];
        s.reading = false;
        s.blind = !matches!(seen, Observation::Flag(_));
        match seen {
            Observation::Flag(flag) => {
                s.good_at = now;
                s.version = Some(flag.version);
                let over = flag
                    .until
                    .is_some_and(|until| until > flag.written && until <= wall);
                s.paused = flag.paused && !(over && s.options.on_expiry == OnExpiry::Release);
                if s.paused {
                    s.hold();
                } else {
                    s.holds.clear();
                    s.aside.clear();
                }
            }
            // Nothing ever resumes because something went away.
            _ if s.paused => {}
            Observation::Absent if s.options.on_missing == OnAbsence::Pause => s.hold(),
            Observation::Malformed if s.options.on_malformed == OnAbsence::Pause => s.hold(),
            _ => {}
        }
        self.grow_old(now);
    }

    fn grow_old(&mut self, now: Instant) {
        for s in &mut self.switches {
            let pauses = s.options.on_stale == OnAbsence::Pause && s.blind && !s.paused && !s.reading;
            if pauses && now >= s.good_at + s.options.max_stale {
                s.hold();
            }
        }
    }

    /// An operator pauses.
    pub(crate) fn pause(&mut self, streams: &[usize], until: Option<SystemTime>, wall: SystemTime) {
        self.expire(wall);
        for stream in streams {
            let stronger = match (self.api.get(stream), until) {
                (Some(None), _) | (_, None) => None,
                (Some(Some(old)), Some(new)) => Some(new.max(*old)),
                (None, Some(new)) => Some(new),
            };
            self.api.insert(*stream, stronger);
        }
    }

    /// An operator resumes.
    pub(crate) fn resume(&mut self, streams: &[usize]) {
        self.api.retain(|stream, _| !streams.contains(stream));
    }

    /// An operator sets a switch's hold aside. False if there is none.
    pub(crate) fn set_aside(&mut self, switch: usize, stream: usize, now: Instant) -> bool {
        self.grow_old(now);
        let s = &mut self.switches[switch];
        let held = s.holds.remove(&stream);
        if let Some(version) = held {
            s.aside.insert(stream, version);
        }
        held.is_some()
    }

    fn expire(&mut self, wall: SystemTime) {
        self.api.retain(|_, until| until.is_none_or(|until| until > wall));
    }

    /// Whether something is due so soon that either answer is right.
    pub(crate) fn on_the_edge(&self, now: Instant, wall: SystemTime) -> bool {
        let near = |until: SystemTime| {
            let apart = until.duration_since(wall).or_else(|_| wall.duration_since(until));
            apart.is_ok_and(|apart| apart <= TICK)
        };
        let api = self.api.values().flatten().any(|until| near(*until));
        let old = self.switches.iter().any(|s| {
            let due = s.good_at + s.options.max_stale;
            s.blind && now + TICK >= due && now <= due + TICK
        });
        let jumped = self.settled_at.is_some_and(|at| now <= at);
        api || old || jumped
    }

    /// The operator's holds that stand now.
    pub(crate) fn api(&mut self, wall: SystemTime) -> BTreeMap<usize, Api> {
        self.expire(wall);
        self.api.clone()
    }

    /// Should this stream stand still?
    pub(crate) fn should_pause(&mut self, stream: usize, now: Instant, wall: SystemTime) -> bool {
        self.expire(wall);
        self.grow_old(now);
        self.api.contains_key(&stream) || self.switches.iter().any(|s| s.holds.contains_key(&stream))
    }
}

impl Switch {
    /// Everywhere but where a person has set aside what this very version asks for.
    fn hold(&mut self) {
        for stream in self.options.streams.clone() {
            match self.aside.get(&stream) {
                Some(version) if *version == self.version => {}
                _ => {
                    self.aside.remove(&stream);
                    self.holds.insert(stream, self.version);
                }
            }
        }
    }
}
