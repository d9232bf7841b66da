//! Invalid files: each problem has its place and says what to do.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    super::*,
    corpus::{self, Case, mutants::mutants},
};

/// The first words of the remedies in problems.
const REMEDIES: [&str; 15] = [
    "add ",
    "choose ",
    "close it ",
    "did you mean ",
    "keep one ",
    "leave it out",
    "make ",
    "must ",
    "put a comma ",
    "save ",
    "set ",
    "take ",
    "the known ones are ",
    "use ",
    "write ",
];

/// The problems of a file over the drop-in of the corpus.
pub(in super::super) fn problems_of(path: &Path, bytes: &[u8]) -> Vec<Problem> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(path);
    let drop_in = folder.path().join("config.d").join(files::DROP_IN);
    fs::create_dir(drop_in.parent().unwrap()).unwrap();
    fs::write(drop_in, corpus::DROP_IN).unwrap();
    fs::write(&file, bytes).unwrap();
    let (texts, mut problems) = files::read(&[folder.path().to_owned()]);
    problems.append(&mut merge(&texts).problems);
    assert!(problems.iter().all(|problem| problem.file == file), "{problems:?}");
    problems
}

impl Case {
    /// The path of the file in a configuration folder.
    pub(in super::super) fn path(&self) -> PathBuf {
        if self.is_drop_in {
            Path::new("config.d").join(files::DROP_IN)
        } else {
            PathBuf::from("config.json")
        }
    }
}

#[test]
fn every_file_that_was_broken_by_hand_is_told_with_place_field_and_remedy() {
    let cases = corpus::by_hand();
    assert!(cases.len() >= 90, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let problems = problems_of(&case.path(), &case.bytes);
        let is_told = |(told, expected): (&Problem, &corpus::Expected)| {
            told.place == Some(expected.place)
                && told.field == expected.field
                && told.message.contains(&expected.wrong)
                && told.message.contains(&expected.remedy)
        };
        let all = problems.len() == case.problems.len()
            && !problems.is_empty()
            && problems.iter().zip(&case.problems).all(is_told);
        if !all {
            let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
            wrong.push(format!("{}:\n{}", case.title, told.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{} of them are not:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_mutant_that_is_broken_is_told_with_a_place_in_the_file_and_a_remedy() {
    let mut broken = 0;
    for mutant in mutants().take(400) {
        let problems = problems_of(Path::new("config.json"), mutant.text.as_bytes());
        for problem in &problems {
            let (line, column) = problem.place.unwrap();
            let text = mutant.text.split('\n').nth(line - 1);
            let is_in_file = text.is_some_and(|text| column <= text.chars().count() + 1);
            assert!(is_in_file, "{}: {problem}\n{}", mutant.how, mutant.text);
            let says = |remedy: &&str| problem.message.contains(*remedy);
            assert!(REMEDIES.iter().any(says), "{}: {problem}", mutant.how);
        }
        broken += usize::from(!problems.is_empty());
    }
    assert!(broken >= 200, "only {broken} were broken");
}

#[test]
fn a_problem_does_nothing_to_the_terminal_that_shows_it() {
    for case in corpus::by_hand() {
        for problem in problems_of(&case.path(), &case.bytes) {
            let shown = problem.to_string();
            assert!(!shown.contains(crate::word::disturbs), "{shown:?}");
            assert!(shown.chars().count() < 1_000, "{shown}");
        }
    }
}
