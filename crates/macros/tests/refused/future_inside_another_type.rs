use tidegate_gate::unit_of_work;

#[unit_of_work(gate)]
fn work(gate: tidegate_gate::Gate) -> Option<impl Future<Output = ()>> {
    Some(async {})
}

fn main() {}
