//! Every project its own localhost: a program that binds or connects to a port of this machine gets another one really, without
//! knowing it.
//!
//! A seccomp filter on `bind(2)` and `connect(2)` hands these calls to a supervisor (`seccomp_unotify(2)`). That duplicates the
//! program's socket (`pidfd_getfd(2)`) and makes the call itself, with the real port. So it works for every program, also a
//! static one; nothing in the program's memory is changed, and no other call is slower.
//!
//! Three processes: the **front** is the child of the shell; it gets the signals, prints what is to be said, and has the exit
//! code. The **supervisor** is the ancestor of everything that is started, as Yama wants it (`ptrace_scope`, `ptrace(2)`), and stays as long as
//! any of it lives. The **command** installs the filter before it becomes the program.
//!
//! - [`filter`]: the filter. [`seccomp`]: the system calls for it.
//! - [`table`]: which port is really meant. [`address`]: addresses, and which are this machine's.
//! - [`supervisor`]: the answers to the calls. [`tree`]: the processes that it has started.
//! - [`front`], and [`control`]: what front and supervisor tell each other.
//! - [`start`]: how the command becomes the program.

// A supervisor that panics takes the network away from everything that it has started.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod address;
pub mod control;
pub mod filter;
pub mod front;
pub mod seccomp;
pub mod start;
pub mod supervisor;
pub mod table;
pub mod tree;

/// The environment variable with the project whose localhost a program has.
pub const VARIABLE: &str = "STYXY_REMAP";
