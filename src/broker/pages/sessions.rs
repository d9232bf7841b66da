//! Secrets and sessions of pages, as values: time comes in as an argument.

use std::collections::VecDeque;

use crate::{time::Moment, token::TokenHash};

/// How long a secret can be used, in seconds.
const SECRET_SECONDS: u64 = 60;
/// The most secrets that wait to be used; a further one replaces the oldest.
const MOST_SECRETS: usize = 8;
/// The most sessions; a further one ends the oldest.
const MOST_SESSIONS: usize = 64;
/// How long no page must have been open until the socket that listens for pages only is stopped, in seconds. A page that
/// is loaded again, or that lost its connection, is back before that.
const UNUSED_SECONDS: u64 = 30;

/// Who may use the pages, known by the hashes only, and how many pages are open.
#[derive(Debug)]
pub(super) struct Sessions {
    /// The secrets that were not used yet, and until when they can be; the oldest first.
    secrets: VecDeque<(TokenHash, Moment)>,
    /// The oldest first.
    begun: VecDeque<TokenHash>,
    /// How many pages follow the events.
    open: usize,
    /// When a page was last asked for, came or went.
    last: Moment,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { secrets: VecDeque::new(), begun: VecDeque::new(), open: 0, last: Moment(0) }
    }
}

impl Sessions {
    /// Adds a secret.
    pub(super) fn offer(&mut self, secret: TokenHash, now: Moment) {
        self.drop_expired(now);
        push(&mut self.secrets, (secret, now.plus_seconds(SECRET_SECONDS)), MOST_SECRETS);
        self.last = now;
    }

    /// Uses up a secret, and makes `session` a session; false if this is no secret that can be used.
    pub(super) fn begin(&mut self, secret: &str, session: TokenHash, now: Moment) -> bool {
        self.drop_expired(now);
        let secret = TokenHash::of(secret);
        let before = self.secrets.len();
        self.secrets.retain(|(known, _)| !known.is_same(&secret));
        let is_right = self.secrets.len() < before;
        if is_right {
            push(&mut self.begun, session, MOST_SESSIONS);
            self.last = now;
        }
        is_right
    }

    /// Whether this is the token of a session. Takes the same time whichever of them it is.
    pub(super) fn has(&self, session: &TokenHash) -> bool {
        // Not `any`, which ends at the first.
        self.begun.iter().fold(false, |found, known| found | known.is_same(session))
    }

    /// A page may be about to come.
    pub(super) fn awaited(&mut self, now: Moment) {
        self.last = now;
    }

    /// A page follows the events.
    pub(super) fn opened(&mut self) {
        self.open += 1;
    }

    /// It does not any more.
    pub(super) fn closed(&mut self, now: Moment) {
        self.open = self.open.saturating_sub(1);
        self.last = now;
    }

    /// When it is certain that no page is in use, if nothing happens until then; `None` while one is open.
    pub(super) fn unused_at(&self) -> Option<Moment> {
        let unused = self.last.plus_seconds(UNUSED_SECONDS);
        let secrets = self.secrets.iter().map(|(_, until)| *until);
        (self.open == 0).then(|| secrets.fold(unused, Moment::max))
    }

    fn drop_expired(&mut self, now: Moment) {
        self.secrets.retain(|(_, until)| now < *until);
    }
}

fn push<T>(queue: &mut VecDeque<T>, value: T, most: usize) {
    if queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(0).plus_seconds(seconds)
    }

    fn has(sessions: &Sessions, token: &str) -> bool {
        sessions.has(&TokenHash::of(token))
    }

    fn offered(secrets: &[&str]) -> Sessions {
        let mut sessions = Sessions::default();
        secrets.iter().for_each(|secret| sessions.offer(TokenHash::of(secret), at(0)));
        sessions
    }

    #[test]
    fn a_secret_is_good_once_and_for_a_minute() {
        let session = || TokenHash::of("session");
        let mut sessions = offered(&["a", "b"]);
        assert!(!sessions.begin("c", session(), at(1)) && !has(&sessions, "session"));
        assert!(sessions.begin("a", session(), at(1)) && has(&sessions, "session"));
        assert!(!sessions.begin("a", session(), at(1)), "it is used up");
        assert!(!has(&sessions, "a") && !has(&sessions, ""));
        assert!(!sessions.begin("b", session(), at(60)));
        assert!(offered(&["b"]).begin("b", session(), Moment(59_999)));
    }

    #[test]
    fn of_nine_secrets_the_oldest_is_dropped() {
        let names: Vec<_> = (0..9).map(|number| number.to_string()).collect();
        let mut sessions = offered(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let good = names.iter().filter(|name| sessions.begin(name, TokenHash::of("s"), at(0)));
        assert_eq!(good.collect::<Vec<_>>(), names[1..].iter().collect::<Vec<_>>());
    }

    #[test]
    fn of_65_sessions_the_oldest_ends() {
        let mut sessions = Sessions::default();
        let names: Vec<_> = (0..65).map(|number| number.to_string()).collect();
        for name in &names {
            sessions.offer(TokenHash::of("secret"), at(0));
            assert!(sessions.begin("secret", TokenHash::of(name), at(0)));
        }
        assert!(!has(&sessions, "0") && names[1..].iter().all(|name| has(&sessions, name)));
    }

    #[test]
    fn pages_are_unused_half_a_minute_after_the_last_one_and_while_no_secret_waits() {
        let mut sessions = offered(&["a", "b"]);
        assert_eq!(sessions.unused_at(), Some(at(60)), "somebody may be about to open one");
        assert!(sessions.begin("a", TokenHash::of("s"), at(10)));
        assert_eq!(sessions.unused_at(), Some(at(60)), "the other secret");
        assert!(sessions.begin("b", TokenHash::of("t"), at(20)));
        assert_eq!(sessions.unused_at(), Some(at(50)));
        sessions.opened();
        sessions.opened();
        sessions.closed(at(100));
        assert_eq!(sessions.unused_at(), None);
        sessions.closed(at(200));
        assert_eq!(sessions.unused_at(), Some(at(230)));
    }

    #[test]
    fn a_page_has_half_a_minute_to_come_to_a_service_that_was_restarted() {
        let mut sessions = Sessions::default();
        sessions.awaited(at(100));
        assert_eq!(sessions.unused_at(), Some(at(130)));
    }
}
