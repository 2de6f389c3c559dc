use tidegate_gate::unit_of_work;

#[unit_of_work("app")]
fn work() {}

fn main() {}
