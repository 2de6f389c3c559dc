//! What `#[unit_of_work]` counts, and until when.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tidegate_gate::{Gate, Keeper, Phase, unit_of_work};
use tokio::sync::Notify;

fn new() -> Gate {
    Gate::new("work").0
}
fn in_flight(gate: Gate) -> u64 {
    gate.sight().in_flight
}
fn names(gate: Gate) -> Vec<String> {
    gate.running().iter().map(|r| r.name.to_string()).collect()
}

#[unit_of_work(gate)]
fn counted(gate: Gate) -> u64 {
    in_flight(gate)
}

#[test]
fn a_function_is_counted_from_its_call_to_its_return() {
    let gate = new();
    assert_eq!(counted(gate), 1);
    assert_eq!(in_flight(gate), 0);
}

#[unit_of_work(gate)]
fn early(gate: Gate, text: &str) -> Result<u64, std::num::ParseIntError> {
    if text.is_empty() {
        return Ok(in_flight(gate));
    }
    let n: u64 = text.parse()?;
    Ok(n + in_flight(gate))
}

#[test]
fn returns_and_question_marks_count_down_too() {
    let gate = new();
    assert_eq!(early(gate, "").unwrap(), 1);
    assert_eq!(early(gate, "41").unwrap(), 42);
    assert!(early(gate, "x").is_err());
    assert_eq!(in_flight(gate), 0);
}

#[unit_of_work(gate)]
fn breaks(gate: Gate) {
    panic!("{} in flight", in_flight(gate));
}

#[test]
fn a_panic_counts_down() {
    let gate = new();
    let panic = catch_unwind(AssertUnwindSafe(|| breaks(gate))).unwrap_err();
    assert_eq!(panic.downcast_ref::<String>().unwrap(), "1 in flight");
    assert_eq!(in_flight(gate), 0);
}

#[unit_of_work(gate)]
fn given_back<T>(gate: Gate, it: T) -> Option<T> {
    (in_flight(gate) == 1).then_some(it)
}

#[test]
fn what_is_returned_may_be_of_any_type() {
    let gate = new();
    assert_eq!(given_back(gate, "it"), Some("it"));
    assert_eq!(given_back(gate, &mut 1), Some(&mut 1));
}

static SHARED: LazyLock<Gate> = LazyLock::new(new);

mod inner {
    use super::*;
    #[unit_of_work(SHARED)]
    pub(super) fn listed() -> Vec<String> {
        names(*SHARED)
    }
    #[unit_of_work(&*SHARED, name = "the one with a name")]
    pub(super) fn renamed() -> Vec<String> {
        names(*SHARED)
    }
    #[unit_of_work(Arc::new(*SHARED))]
    pub(super) fn r#match() -> Vec<String> {
        names(*SHARED)
    }
}

#[test]
fn status_lists_it_by_its_path_or_by_the_name_it_is_given() {
    assert_eq!(inner::listed(), ["unit_of_work::inner::listed"]);
    assert_eq!(inner::renamed(), ["the one with a name"]);
    assert_eq!(inner::r#match(), ["unit_of_work::inner::match"]);
}

#[unit_of_work(gate)]
async fn waits(gate: Gate, leave: &Notify) -> u64 {
    leave.notified().await;
    in_flight(gate)
}

#[tokio::test]
async fn an_async_fn_is_counted_from_its_first_poll_to_its_end() {
    let (gate, leave) = (new(), Notify::new());
    let mut work = pin!(waits(gate, &leave));
    assert_eq!(in_flight(gate), 0, "nothing has begun");
    assert!(work.as_mut().now_or_never().is_none());
    assert_eq!(in_flight(gate), 1);
    assert_eq!(names(gate), ["unit_of_work::waits"]);
    leave.notify_one();
    assert_eq!(work.await, 1);
    assert_eq!(in_flight(gate), 0);
}

#[tokio::test]
async fn an_async_fn_that_is_dropped_counts_down() {
    let (gate, leave) = (new(), Notify::new());
    let mut work = Box::pin(waits(gate, &leave));
    assert!(work.as_mut().now_or_never().is_none());
    assert_eq!(in_flight(gate), 1);
    drop(work);
    assert_eq!(in_flight(gate), 0);
}

#[unit_of_work(gate)]
fn later<'a>(gate: Gate, leave: &'a Notify, cut: bool) -> impl Future<Output = u64> + Send + 'a {
    let before = in_flight(gate);
    async move {
        if cut {
            return 0;
        }
        leave.notified().await;
        before
    }
}

#[tokio::test]
async fn a_returned_future_is_counted_from_the_call_to_its_end() {
    let (gate, leave) = (new(), Notify::new());
    let mut work = Box::pin(later(gate, &leave, false));
    assert_eq!(in_flight(gate), 1, "the call itself is work");
    assert!(work.as_mut().now_or_never().is_none());
    assert_eq!(in_flight(gate), 1);
    leave.notify_one();
    assert_eq!(work.await, 1);
    assert_eq!(in_flight(gate), 0);

    drop(later(gate, &leave, false));
    assert_eq!(in_flight(gate), 0);
    assert_eq!(later(gate, &leave, true).await, 0);
    assert_eq!(in_flight(gate), 0);
}

#[unit_of_work(gate)]
fn boxed(gate: Gate, leave: &Notify) -> Pin<Box<dyn Future<Output = u64> + Send + '_>> {
    if in_flight(gate) != 1 {
        return Box::pin(async { 0 });
    }
    Box::pin(async move {
        leave.notified().await;
        in_flight(gate)
    })
}

#[unit_of_work(gate)]
fn aliased(gate: Gate, leave: &Notify) -> BoxFuture<'_, u64> {
    async move {
        leave.notified().await;
        in_flight(gate)
    }
    .boxed()
}

#[tokio::test]
async fn a_boxed_future_is_counted_to_its_end() {
    for make in [boxed, aliased] {
        let (gate, leave) = (new(), Notify::new());
        let mut work = make(gate, &leave);
        assert!(work.as_mut().now_or_never().is_none());
        assert_eq!(in_flight(gate), 1);
        leave.notify_one();
        assert_eq!(work.await, 1);
        assert_eq!(in_flight(gate), 0);
    }
}

struct Service {
    gate: Gate,
    log: Vec<String>,
}

#[async_trait::async_trait]
trait Handler {
    async fn handle(&mut self, text: &str) -> u64;
}

#[async_trait::async_trait]
impl Handler for Service {
    #[unit_of_work(self.gate)]
    async fn handle(&mut self, text: &str) -> u64 {
        tokio::task::yield_now().await;
        self.log.push(text.to_owned());
        in_flight(self.gate)
    }
}

impl Service {
    #[unit_of_work(self.gate)]
    fn read(&self) -> &[String] {
        assert_eq!(in_flight(self.gate), 1);
        &self.log
    }
    #[unit_of_work(self.gate)]
    async fn write(&mut self, text: impl Display) -> Result<&mut String, std::fmt::Error> {
        tokio::task::yield_now().await;
        assert_eq!(in_flight(self.gate), 1);
        self.log.push(text.to_string());
        self.log.last_mut().ok_or(std::fmt::Error)
    }
    #[unit_of_work(self.gate)]
    async fn each<T, const N: usize>(&self, of: [T; N], then: impl Fn(&T) -> String) -> Vec<String>
    where
        T: Send,
    {
        tokio::task::yield_now().await;
        assert_eq!(in_flight(self.gate), 1);
        of.iter().map(then).collect()
    }
    #[unit_of_work(self.gate)]
    fn consumed(self) -> Vec<String> {
        assert_eq!(in_flight(self.gate), 1);
        self.log
    }
    #[unit_of_work(gate)]
    fn made<F: Fn() -> u64 + 'static>(gate: Gate, of: F) -> Box<dyn Fn() -> u64> {
        assert_eq!(in_flight(gate), 1);
        Box::new(of)
    }
}

impl Service {
    #[unit_of_work(self.gate)]
    fn soon<'a, T: Display>(
        &'a self,
        leave: &'a Notify,
        of: &'a [T],
    ) -> impl Future<Output = Result<String, std::fmt::Error>> + Send + use<'a, T>
    where
        [T]: Sync,
    {
        async move {
            leave.notified().await;
            let first = of.first().ok_or(std::fmt::Error)?;
            Ok(format!("{first} {}", in_flight(self.gate)))
        }
    }
}

trait Greets: Sync {
    fn at(&self) -> Gate;

    #[unit_of_work(self.at())]
    fn greet(&self, whom: &str) -> String {
        format!("{whom} {}", in_flight(self.at()))
    }

    #[unit_of_work(self.at())]
    fn greet_later(&self, whom: &str) -> impl Future<Output = String> + Send {
        async move { format!("{whom} {}", in_flight(self.at())) }
    }
}

impl Greets for Service {
    fn at(&self) -> Gate {
        self.gate
    }
}

#[tokio::test]
async fn methods_and_traits_may_return_futures_that_borrow() {
    let (gate, leave) = (new(), Notify::new());
    let service = Service { gate, log: vec![] };
    let of = [7];
    let mut work = Box::pin(service.soon(&leave, &of));
    assert_eq!(in_flight(gate), 1);
    assert!(work.as_mut().now_or_never().is_none());
    assert_eq!(names(gate), ["unit_of_work::soon"]);
    leave.notify_one();
    assert_eq!(work.await, Ok("7 1".to_owned()));
    leave.notify_one();
    assert!(service.soon::<u8>(&leave, &[]).await.is_err());
    assert_eq!(in_flight(gate), 0, "errors count down");

    assert_eq!(service.greet("you"), "you 1");
    let later = service.greet_later("you");
    assert_eq!(in_flight(gate), 1);
    assert_eq!(later.await, "you 1");
    assert_eq!(in_flight(gate), 0);
}

#[unit_of_work(gate)]
async fn breaks_late(gate: Gate) {
    tokio::task::yield_now().await;
    panic!("{} in flight", in_flight(gate));
}

#[unit_of_work(gate)]
fn breaks_in_its_future(gate: Gate) -> impl Future<Output = ()> {
    async move { panic!("{} in flight", in_flight(gate)) }
}

#[tokio::test]
async fn a_panic_in_a_future_counts_down() {
    let gate = new();
    let late = AssertUnwindSafe(breaks_late(gate)).catch_unwind().await;
    let inside = AssertUnwindSafe(breaks_in_its_future(gate)).catch_unwind().await;
    for panic in [late, inside] {
        assert_eq!(
            panic.unwrap_err().downcast_ref::<String>().unwrap(),
            "1 in flight"
        );
    }
    assert_eq!(in_flight(gate), 0);
}

#[tokio::test]
async fn methods_keep_their_borrows_and_generics() {
    let gate = new();
    let mut service = Service { gate, log: vec![] };
    service.write(7).await.unwrap().push('!');
    assert_eq!(service.handle("x").await, 1);
    assert_eq!(service.read(), ["7!", "x"]);
    assert_eq!(service.each([1, 2], |n| n.to_string()).await, ["1", "2"]);
    assert_eq!(Service::made(gate, || 3)(), 3);
    assert_eq!(service.consumed(), ["7!", "x"]);
    assert_eq!(in_flight(gate), 0);
}

#[tokio::test]
async fn the_future_can_still_be_spawned() {
    let gate = new();
    let leave = Arc::new(Notify::new());
    leave.notify_one();
    let work = {
        let leave = leave.clone();
        async move { waits(gate, &leave).await }
    };
    assert_eq!(tokio::spawn(work).await.unwrap(), 1);
}

#[unit_of_work(gate, wait)]
async fn patient(gate: Gate) -> u64 {
    in_flight(gate)
}

#[tokio::test]
async fn with_wait_the_work_begins_when_the_gate_is_open() {
    let (gate, mut keeper): (Gate, Keeper) = Gate::new("closed");
    keeper.close();
    let mut work = pin!(patient(gate));
    assert!(work.as_mut().now_or_never().is_none());
    assert_eq!(gate.sight().phase, Phase::Paused, "who waits is not in flight");
    let gone = Box::pin(patient(gate));
    assert!(
        tokio::time::timeout(Duration::ZERO, gone).await.is_err(),
        "dropped while it waits"
    );
    assert_eq!(gate.sight().waiting, 1);
    keeper.open();
    assert_eq!(work.await, 1);
}

#[test]
fn what_it_cannot_take_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}
