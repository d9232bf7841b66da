//! The manifests of a project, as far as recognising its programs needs them. Without the feature `project` there
//! are none: a program is recognised by the command line alone.

#[cfg(feature = "project")]
pub(super) use crate::project::{member, named_port, read};

#[cfg(not(feature = "project"))]
pub(super) fn read(_: &std::path::Path, _: &str) -> Option<String> {
    None
}

#[cfg(not(feature = "project"))]
pub(super) fn member(_: &std::path::Path, _: &str) -> Option<std::path::PathBuf> {
    None
}

#[cfg(not(feature = "project"))]
pub(super) fn named_port(_: &str, _: bool) -> Option<crate::port::Port> {
    None
}
