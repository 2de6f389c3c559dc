//! Floods of refused calls: the guesser waits, and the audit says how many there were.
use crate::error::ApiError;
use axum::http::StatusCode;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tidegate_http::Peer;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Makes whoever guesses wait, and nobody else: a valid token never comes here.
pub(crate) struct Slow {
    failures: Mutex<HashMap<IpAddr, (u32, Instant)>>,
    waiting: Semaphore,
}

impl Default for Slow {
    fn default() -> Slow {
        Slow {
            failures: Mutex::default(),
            waiting: Semaphore::new(Slow::AT_ONCE),
        }
    }
}

impl Slow {
    /// Addresses remembered, whatever comes.
    const KNOWN: usize = 4096;
    const FORGET: Duration = Duration::from_secs(60);
    /// Those who wait occupy a connection each.
    const AT_ONCE: usize = 256;

    pub(crate) async fn down(&self, peer: Option<&Peer>) -> ApiError {
        let from = peer
            .and_then(|p| p.addr)
            .map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |a| network(a.ip()));
        let failures = self.count(from);
        let wait = Duration::from_millis(100) * 2u32.pow(failures.saturating_sub(1).min(5));
        let Ok(_place) = self.waiting.try_acquire() else {
            return ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too many calls with a wrong token are waiting for their answer",
            )
            .retry_after("5");
        };
        tokio::time::sleep(wait).await;
        ApiError::unauthorized("no token of ours is like the one sent")
    }

    fn count(&self, from: IpAddr) -> u32 {
        let now = Instant::now();
        let mut failures = unpoisoned(&self.failures);
        if failures.len() >= Slow::KNOWN {
            failures.retain(|_, (_, last)| now.duration_since(*last) < Slow::FORGET);
            if failures.len() >= Slow::KNOWN {
                failures.clear();
            }
        }
        let (count, last) = failures.entry(from).or_insert((0, now));
        if now.duration_since(*last) >= Slow::FORGET {
            *count = 0;
        }
        *count = count.saturating_add(1);
        *last = now;
        *count
    }
}

/// One subscriber has at least a /64 of IPv6 addresses to come from.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}
/// How many refused calls are written down: at most ten a second.
#[derive(Default)]
pub(crate) struct Notes {
    window: Option<Instant>,
    used: u32,
    left_out: u64,
}

impl Notes {
    pub(crate) fn take(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self
            .window
            .is_none_or(|at| now.duration_since(at) >= Duration::from_secs(1))
        {
            self.window = Some(now);
            self.used = 0;
        }
        if self.used == 10 {
            self.left_out += 1;
            return None;
        }
        self.used += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves the value whole at each step.
    mutex.lock().unwrap_or_else(|p| p.into_inner())
}
