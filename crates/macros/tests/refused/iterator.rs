use tidegate_gate::unit_of_work;

#[unit_of_work(gate)]
fn work(gate: tidegate_gate::Gate) -> impl Iterator<Item = u64> {
    0..10
}

fn main() {}
