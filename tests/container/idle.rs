use crate::Test;

pub const TESTS: &[Test] = &[];

/// What runs in the machine.
pub async fn inside(arguments: &[&str]) -> serde_json::Value {
    panic!("there is no command {arguments:?}")
}
