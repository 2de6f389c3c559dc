use tidegate_gate::unit_of_work;

#[unit_of_work(gate, block)]
fn work(gate: tidegate_gate::Gate) {}

fn main() {}
