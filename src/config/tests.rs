pub(super) mod broken;
#[path = "../../tests/broken/mod.rs"]
pub(super) mod corpus;
mod folders;
mod in_force;
mod merging;

use super::*;
use crate::port::PortRange;

fn range_of(config: &Config, name: &str) -> String {
    config.types.get(&name.parse().unwrap()).unwrap().port_range.to_string()
}

#[test]
fn what_is_built_in_has_every_type_and_no_overlap() {
    let config = Config::built_in();
    assert_eq!(config.types.0.len(), 18);
    assert_eq!(range_of(&config, "dev"), "3000-3099");
    let ranges: Vec<PortRange> = config.types.0.values().map(|t| t.port_range).collect();
    for (index, range) in ranges.iter().enumerate() {
        assert!(!ranges[..index].iter().any(|other| other.overlaps(*range)), "{range}");
    }
}

#[test]
fn what_is_good_of_a_file_with_many_problems_can_be_had() {
    let cases = corpus::by_hand();
    let case = cases.iter().find(|case| case.title == "many things at once").unwrap();
    let folders = folders::Folders::new();
    folders.write("user/config.json", &case.bytes);
    let Merged { config, problems, .. } = folders.read();
    assert_eq!(problems.len(), case.problems.len());
    assert_eq!(range_of(&config, "good"), "7000-7009");
    assert_eq!(range_of(&config, "dev"), "3000-3099");
}
