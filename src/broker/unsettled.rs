//! What was remembered before grants that are not durable yet, so that a grant that never was
//! acknowledged leaves no trace in what a project remembers.

use std::collections::HashMap;

use crate::{lease::MemoryKey, registry::Remembered};

/// By key, what was remembered one after the other since it was durable last, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Unsettled(HashMap<MemoryKey, Vec<Remembered>>);

impl Unsettled {
    /// A grant that has to become durable is about to replace this.
    pub(super) fn note(&mut self, key: &MemoryKey, before: Option<Remembered>) {
        self.0.entry(key.clone()).or_default().extend(before);
    }

    /// What is to be remembered if a grant of that key is taken back: the last that is durable.
    pub(super) fn before(&self, key: &MemoryKey, durable: u64) -> Option<Remembered> {
        let mut before = self.0.get(key)?.iter().rev();
        before.find(|remembered| remembered.since <= durable).cloned()
    }

    /// Forgets what led to what is remembered now, if that is durable.
    pub(super) fn settle(&mut self, key: &MemoryKey, now: Option<&Remembered>, durable: u64) {
        if now.is_none_or(|now| now.since <= durable) {
            self.0.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::{Port, Protocol};

    fn had(port: u64, since: u64) -> Remembered {
        Remembered::new(Port::new(port).unwrap(), since)
    }

    #[test]
    fn what_is_taken_back_gives_way_to_the_last_port_that_was_acknowledged() {
        let path = "/home/dev/shop".parse().unwrap();
        let key = MemoryKey::new(path, "dev".parse().unwrap(), Protocol::Tcp);
        let mut unsettled = Unsettled::default();
        assert_eq!(unsettled.before(&key, 9), None);
        // 3000 was durable; 3001 and then 3002 were granted before either was.
        unsettled.note(&key, Some(had(3000, 4)));
        unsettled.note(&key, Some(had(3001, 6)));
        assert_eq!(unsettled.before(&key, 5), Some(had(3000, 4)));
        assert_eq!(unsettled.before(&key, 6), Some(had(3001, 6)));
        unsettled.settle(&key, Some(&had(3002, 7)), 6);
        assert_eq!(unsettled.before(&key, 6), Some(had(3001, 6)));
        unsettled.settle(&key, Some(&had(3002, 7)), 7);
        assert_eq!(unsettled.before(&key, 7), None);
    }
}
