//! Keys, as terminals send them: UTF-8, control characters, and the sequences of ECMA-48 that VT220, xterm and
//! those that follow them send for the other keys.

/// A pressed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Backspace,
    /// Ctrl and a letter.
    Control(char),
    /// A printable character.
    Char(char),
}

const ESCAPE: u8 = 0x1b;

/// Decodes what is typed.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The beginning of a sequence or of a character whose rest is still to come.
    begun: Vec<u8>,
}

impl Decoder {
    /// The keys that were pressed, after these bytes were read at once.
    pub(super) fn keys(&mut self, typed: &[u8]) -> Vec<Key> {
        let mut bytes = std::mem::take(&mut self.begun);
        bytes.extend(typed);
        let (mut rest, mut keys) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let Some((length, key)) = first(rest) else {
                self.begun = rest.to_vec();
                break;
            };
            keys.extend(key);
            rest = &rest[length..];
        }
        keys
    }
}

/// How many bytes the first key has, and which it is, if it has a meaning here; `None` if the rest of it is still
/// to come.
fn first(bytes: &[u8]) -> Option<(usize, Option<Key>)> {
    let key = match *bytes {
        [ESCAPE, b'[', b'[', ..] => return (bytes.len() > 3).then_some((4, None)), // Linux: F1 to F5
        [ESCAPE, b'[', ref rest @ ..] => {
            // CSI: parameters and intermediate bytes, up to the final one.
            let length = rest.iter().position(|byte| !(0x20..0x40).contains(byte))?;
            return Some((length + 3, sequence(&rest[..length], rest[length])));
        }
        // SS3: cursor keys and Enter in application mode.
        [ESCAPE, b'O', last, ..] => return Some((3, sequence(&[], last))),
        // Alone, or in front of another key: as Alt it has no meaning here.
        [ESCAPE, ..] => Key::Escape,
        [b'\r' | b'\n', ..] => Key::Enter,
        [0x08 | 0x7f, ..] => Key::Backspace,
        [control @ 0x01..=0x1a, ..] => Key::Control(char::from(control + b'a' - 1)),
        _ => return character(bytes),
    };
    Some((1, Some(key)))
}

/// The key of a sequence with these parameters and this final byte.
fn sequence(parameters: &[u8], last: u8) -> Option<Key> {
    // Modifiers such as Shift are further parameters.
    let first = parameters.split(|byte| *byte == b';').next().unwrap_or_default();
    Some(match (last, first) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'H', _) | (b'~', b"1" | b"7") => Key::Home,
        (b'F', _) | (b'~', b"4" | b"8") => Key::End,
        (b'~', b"5") => Key::PageUp,
        (b'~', b"6") => Key::PageDown,
        (b'M', b"") => Key::Enter,
        _ => return None,
    })
}

/// The first character of UTF-8.
fn character(bytes: &[u8]) -> Option<(usize, Option<Key>)> {
    let length = match bytes[0] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let text = match str::from_utf8(&bytes[..length.min(bytes.len())]) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => return None,
        Err(error) => return Some((error.error_len().unwrap_or(1), None)),
    };
    let typed = text.chars().next().filter(|c| !c.is_control());
    Some((length, typed.map(Key::Char)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(typed: &str) -> Vec<Key> {
        Decoder::default().keys(typed.as_bytes())
    }

    #[test]
    fn every_terminal_has_the_same_keys() {
        for (sequence, key) in [
            ("\x1b[A", Key::Up),
            ("\x1bOA", Key::Up),
            ("\x1b[1;5B", Key::Down),
            ("\x1b[5~", Key::PageUp),
            ("\x1b[6;2~", Key::PageDown),
            ("\x1b[1~", Key::Home),
            ("\x1b[7~", Key::Home),
            ("\x1bOH", Key::Home),
            ("\x1b[F", Key::End),
            ("\x1b[4~", Key::End),
            ("\x1bOM", Key::Enter),
            ("\r", Key::Enter),
            ("\x7f", Key::Backspace),
            ("\x03", Key::Control('c')),
            ("\x1b", Key::Escape),
            ("店", Key::Char('店')),
        ] {
            assert_eq!(keys(sequence), [key], "{sequence:?}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_no_text() {
        assert_eq!(keys("\x1b[15~q"), [Key::Char('q')]);
        assert_eq!(keys("\x1b[[Aq"), [Key::Char('q')]);
        assert_eq!(keys("\x1b[<0;1;1Mq"), [Key::Char('q')]);
        assert_eq!(keys("\x1b\x1b[A"), [Key::Escape, Key::Up]);
        assert_eq!(keys("\u{9b}\0q"), [Key::Char('q')]);
        assert_eq!(Decoder::default().keys(b"\xff\xc3(q"), [Key::Char('('), Key::Char('q')]);
    }

    #[test]
    fn a_key_may_arrive_in_parts() {
        for sequence in ["\x1b[5~", "\x1b[[A", "店"] {
            let whole = keys(sequence);
            for at in 1..sequence.len() {
                let (begin, end) = sequence.as_bytes().split_at(at);
                // The first byte alone is the key Escape.
                let is_escape = begin == [ESCAPE];
                let mut decoder = Decoder::default();
                let mut parts = decoder.keys(begin);
                parts.extend(decoder.keys(end));
                if !is_escape {
                    assert_eq!(parts, whole, "{begin:?} {end:?}");
                }
            }
        }
    }
}
