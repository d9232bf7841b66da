//! The audit: every change reaches the journal as one numbered event.
//!
//! journald drops entries silently when a user writes more than its limit, so sending is not enough.
//! The state log is the queue: a record stays there until its event has been read back from the
//! journal by its number, and is sent again if it was dropped. A grant never waits for any of it.
//!
//! - [`event`]: what each kind of change says in the journal
//! - [`sink`]: where events go: journald, or JSON lines on stderr
//! - [`journal`]: reading back what arrived
//! - [`outbox`]: pacing, confirming, repeating

pub mod event;
pub mod journal;
pub mod outbox;
pub mod sink;

pub use outbox::{Outbox, Status};
pub use sink::Sink;
