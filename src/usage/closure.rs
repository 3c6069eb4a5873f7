/// stub
#[derive(Debug)]
pub struct ClosureUsage;
