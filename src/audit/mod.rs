//! The audit: every change reaches the journal as one numbered event.
//!
//! journald silently drops entries of a user who exceeds its rate limit, so sending is not enough. The state
//! log is the queue: a record stays there until its event has been read back from the journal by its number,
//! and the event is sent again if it was dropped. A grant never waits for any of this.
//!
//! - [`event`]: the journal event of each kind of change
//! - [`sink`]: where events go: journald, or JSON lines on stderr
//! - [`journal`]: reading back the events that arrived
//! - [`outbox`]: pacing, confirming, repeating
//! - [`past`]: finding the events of the past

pub mod event;
pub mod journal;
pub mod outbox;
pub mod past;
pub mod sink;

pub use outbox::{Outbox, Status};
pub use sink::Sink;
