/// stub
#[derive(Debug)]
pub struct SqliteUsage;
/// stub
#[derive(Debug)]
pub struct SqlTable;
