//! What the driver and a jq stage cost: `cargo bench -p tidegate-runtime`. Ratios to the plain loop in the same run
//! are what to keep; absolute figures are the machine's.
#![allow(clippy::unwrap_used, missing_docs)] // a bench stops at the first surprise; criterion's macro has no docs
use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jaq_core::data::JustLut;
use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Vars, unwrap_valr};
use jaq_json::Val;
use std::hint::black_box;
use std::time::{Instant, SystemTime};
use tidegate_gate::{Clock, Holds, Kind, Moment};
use tidegate_runtime::{
    DeadLetters, Event, Limits, Map, MemorySource, Pipeline, Poison, Sink, SinkError, Stage, Stages, Token,
    drive, memory,
};
use tokio::runtime::Runtime;

const EXPRESSION: &str = "select(.month < 13) | {carrier, flight, speed: (.distance / (.air_time // 1))}";
const ROWS: usize = 10_000;

fn row(n: usize) -> Bytes {
    let (day, flight, minutes) = (n % 31 + 1, n, n % 300 + 30);
    format!(
        r#"{{"year":2013,"month":1,"day":{day},"dep_time":517,"carrier":"UA","flight":{flight},"tailnum":"N14228","origin":"EWR","dest":"IAH","air_time":{minutes},"distance":1400}}"#
    )
    .into()
}

fn events() -> Vec<Event> {
    let token = |n: usize| Token {
        epoch: 0,
        partition: 0,
        position: n as u128,
        part: 0,
    };
    let event = |n| Event {
        payload: row(n),
        key: None,
        token: token(n),
    };
    (0..ROWS).map(event).collect()
}

/// Takes everything and keeps nothing.
struct Nowhere;

impl Sink for Nowhere {
    fn describe(&self) -> std::sync::Arc<str> {
        "nowhere".into()
    }

    async fn write(&mut self, events: &[Event]) -> Result<(), SinkError> {
        black_box(events);
        Ok(())
    }
}

/// What a typed pipeline inlines.
struct Typed;

impl Stages for Typed {
    async fn on(&mut self, event: &Event, out: &mut Vec<Event>) -> Result<(), Poison> {
        out.push(event.clone());
        Ok(())
    }
}

fn fed(runtime: &Runtime, events: &[Event]) -> MemorySource {
    let (feeder, source) = memory(ROWS);
    runtime.block_on(async {
        for event in events {
            feeder.send(event.payload.clone()).await;
        }
    });
    source
}

fn stream<G: Stages>(runtime: &Runtime, source: MemorySource, stages: G) {
    let holds = Holds::new(Clock::new(|| Moment {
        wall: SystemTime::now(),
        mono: Instant::now(),
    }));
    let member = holds.register("bench", Kind::Stream).unwrap();
    let pipeline = Pipeline {
        source,
        stages,
        sink: Nowhere,
        dead_letters: DeadLetters::none(),
        limits: Limits::default(),
    };
    runtime.block_on(drive(&member, pipeline, Default::default()));
}

fn jq(c: &mut Criterion) {
    let events = events();
    let runtime = Runtime::new().unwrap();
    let mut group = c.benchmark_group("jq, 10,000 events");
    group
        .throughput(Throughput::Elements(ROWS as u64))
        .sample_size(20);

    let arena = Arena::default();
    let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let program = File {
        code: EXPRESSION,
        path: (),
    };
    let modules = Loader::new(defs).load(&arena, program).unwrap();
    let funs = jaq_core::funs::<JustLut<Val>>()
        .chain(jaq_std::funs())
        .chain(jaq_json::funs());
    let filter = Compiler::default().with_funs(funs).compile(modules).unwrap();
    group.bench_function("the library's own loop", |b| {
        let mut out = Vec::new();
        b.iter(|| {
            out.clear();
            for event in &events {
                let input = jaq_json::read::parse_single(&event.payload).unwrap();
                let ctx = Ctx::<JustLut<Val>>::new(&filter.lut, Vars::new([]));
                for value in filter.id.run((ctx, input)).map(unwrap_valr) {
                    jaq_json::write::write(&mut out, &Default::default(), 0, &value.unwrap()).unwrap();
                    out.push(b'\n');
                }
            }
            black_box(&out);
        });
    });
    group.bench_function("the stage", |b| {
        let mut stage = Map::new(EXPRESSION).unwrap();
        let mut out = Vec::new();
        b.iter(|| {
            for event in &events {
                stage.on(event, &mut out).unwrap();
                out.clear();
            }
        });
    });
    group.bench_function("a stream with the stage", |b| {
        let stages = || -> Vec<Box<dyn Stage>> { vec![Box::new(Map::new(EXPRESSION).unwrap())] };
        b.iter_batched(
            || (fed(&runtime, &events), stages()),
            |(source, stages)| stream(&runtime, source, stages),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn driver(c: &mut Criterion) {
    let events = events();
    let runtime = Runtime::new().unwrap();
    let mut group = c.benchmark_group("driver, 10,000 events");
    group
        .throughput(Throughput::Elements(ROWS as u64))
        .sample_size(20);
    group.bench_function("no stage", |b| {
        b.iter_batched(
            || fed(&runtime, &events),
            |source| stream(&runtime, source, ()),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("a typed stage", |b| {
        b.iter_batched(
            || fed(&runtime, &events),
            |source| stream(&runtime, source, Typed),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, jq, driver);
criterion_main!(benches);
