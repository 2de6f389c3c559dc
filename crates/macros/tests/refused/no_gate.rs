use tidegate_gate::unit_of_work;

#[unit_of_work]
fn work() {}

fn main() {}
