use tidegate_gate::unit_of_work;

trait Works {
    #[unit_of_work(self.gate())]
    fn work(&self);
    fn gate(&self) -> tidegate_gate::Gate;
}

fn main() {}
