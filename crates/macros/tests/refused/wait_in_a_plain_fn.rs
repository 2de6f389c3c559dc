use tidegate_gate::unit_of_work;

#[unit_of_work(gate, wait)]
fn work(gate: tidegate_gate::Gate) {}

fn main() {}
