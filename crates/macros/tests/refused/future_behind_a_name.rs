use tidegate_gate::unit_of_work;

type Hidden = std::pin::Pin<Box<dyn Future<Output = ()>>>;

#[unit_of_work(gate)]
fn work(gate: tidegate_gate::Gate) -> Hidden {
    Box::pin(async {})
}

fn main() {}
