use tidegate_gate::unit_of_work;

#[unit_of_work(gate)]
async fn work(gate: tidegate_gate::Gate) -> impl Future<Output = ()> {
    async {}
}

fn main() {}
