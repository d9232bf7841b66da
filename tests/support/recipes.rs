//! docs/recipes.md, as its readers copy from it.

use std::{collections::BTreeMap, fs, path::Path};

/// The files of a recipe, by their names.
pub type Files = BTreeMap<String, String>;

/// The headings of all recipes.
pub fn headings() -> Vec<String> {
    page().lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect()
}

/// Whether the page says that something of the recipe is untried.
pub fn is_untried(heading: &str) -> bool {
    let section = section(heading);
    section.contains("*Untried") || section.contains(" untried.*")
}

/// The files below a heading.
pub fn recipe(heading: &str) -> Files {
    let section = section(heading);
    let mut blocks = section.split("\n```");
    let mut files = Files::new();
    while let (Some(words), Some(block)) = (blocks.next(), blocks.next()) {
        let name = words.lines().rev().find(|line| line.starts_with('`')).unwrap();
        let name = name.split('`').nth(1).unwrap();
        let (_, text) = block.split_once('\n').unwrap();
        files.insert(name.to_owned(), format!("{text}\n"));
    }
    assert!(!files.is_empty(), "{heading}");
    files
}

fn section(heading: &str) -> String {
    let page = page();
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).expect(heading);
    let ends = ["\n# ", "\n## "].map(|next| rest.find(next).unwrap_or(rest.len()));
    rest[..ends[0].min(ends[1])].to_owned()
}

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes.md")).unwrap()
}
