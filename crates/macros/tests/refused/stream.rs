use tidegate_gate::unit_of_work;

#[unit_of_work(gate)]
fn work(gate: tidegate_gate::Gate) -> impl futures_util::Stream<Item = u64> {
    futures_util::stream::empty()
}

fn main() {}
