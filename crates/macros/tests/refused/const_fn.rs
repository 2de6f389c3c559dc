use tidegate_gate::unit_of_work;

#[unit_of_work(gate)]
const fn work(gate: tidegate_gate::Gate) -> u64 {
    1
}

fn main() {}
