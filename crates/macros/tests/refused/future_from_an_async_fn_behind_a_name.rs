use tidegate_gate::unit_of_work;

#[unit_of_work(gate)]
async fn work(gate: tidegate_gate::Gate) -> std::future::Ready<()> {
    std::future::ready(())
}

fn main() {}
