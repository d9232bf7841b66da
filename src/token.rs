//! The token of the HTTP door over TCP: a secret of the user that every request over TCP must carry.
//!
//! Only the command reads and writes the file that contains it. The service knows no more than its SHA-256, so nothing
//! that the service writes or answers can reveal the token.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::error::Error;

/// The shortest token, in characters. Shorter ones can be guessed; styxy 1.x replaced them, too.
const SHORTEST: usize = 32;
/// The longest token, in characters.
const LONGEST: usize = 1_000;

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of this token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Whether it is this hash. Takes the same time whatever the hashes are.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The first eight digits: enough to see whether two places have the same token.
    pub fn fingerprint(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

/// 64 hexadecimal digits.
impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// As elsewhere in logs: only the fingerprint.
impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({})", self.fingerprint())
    }
}

impl FromStr for TokenHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::invalid("the SHA-256 of a token has 64 hexadecimal digits");
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: Error| de::Error::custom(error.message))
    }
}

/// A token. It is shown only on purpose: there is no `Debug` and no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A new token of 256 random bits (getrandom(2)), as 64 hexadecimal digits.
    ///
    /// # Errors
    /// If the kernel has no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(TokenHash(bytes).to_string()))
    }

    /// The token itself, for the file and for a user who asks to see it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The first and the last four characters, for people to recognise it.
    pub fn masked(&self) -> String {
        format!("{}***{}", &self.0[..4], &self.0[self.0.len() - 4..])
    }

    /// Its SHA-256.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }
}

/// The content of a token file; white space around it does not count. The token may be of any printable ASCII
/// characters, since it is sent in a header.
impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if !(SHORTEST..=LONGEST).contains(&text.len()) {
            let message = format!("a token has {SHORTEST} to {LONGEST} characters");
            return Err(Error::invalid(message));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::invalid(
                "a token has only printable ASCII characters, and no spaces",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_token_of_its_own_is_64_digits_that_no_other_has() {
        let (first, second) = (Token::random().unwrap(), Token::random().unwrap());
        assert!(first.reveal().len() == 64 && first != second);
        assert!(first.reveal().bytes().all(|byte| b"0123456789abcdef".contains(&byte)));
        assert!(first.reveal().parse::<Token>().unwrap() == first);
    }

    #[test]
    fn a_token_of_1_x_is_taken_and_one_that_could_be_guessed_is_not() {
        assert_eq!(format!(" {SOME}\n").parse::<Token>().unwrap().reveal(), SOME);
        for wrong in
            ["", &SOME[1..], &format!("{SOME} {SOME}"), &format!("{SOME}é"), &SOME.repeat(32)]
        {
            assert!(wrong.parse::<Token>().is_err(), "{wrong}");
        }
        assert_eq!(SOME.parse::<Token>().unwrap().masked(), "0123***cdef");
    }

    #[test]
    fn a_hash_knows_its_token_and_is_written_as_sha256sum_does() {
        let hash = TokenHash::of("abc");
        let digits = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((hash.to_string().as_str(), hash.fingerprint().as_str()), (digits, "ba7816bf"));
        let is = |token| hash.is_same(&TokenHash::of(token));
        assert!(is("abc") && !is("abd") && !is(""));
        assert_eq!(digits.parse::<TokenHash>().unwrap(), hash);
        assert_eq!(digits.to_uppercase().parse::<TokenHash>().unwrap(), hash);
        for wrong in ["", &digits[1..], &digits.replace('b', "g"), &format!("+{}", &digits[1..])] {
            assert!(wrong.parse::<TokenHash>().is_err(), "{wrong}");
        }
        let json = serde_json::to_string(&hash).unwrap();
        assert_eq!(serde_json::from_str::<TokenHash>(&json).unwrap(), hash);
        assert_eq!(format!("{hash:?}"), "TokenHash(ba7816bf)");
    }
}
