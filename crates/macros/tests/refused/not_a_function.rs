use tidegate_gate::unit_of_work;

#[unit_of_work(GATE)]
struct Work;

fn main() {}
