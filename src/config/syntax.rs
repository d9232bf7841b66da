//! Parses JSON, strictly or with comments, with a remedy for every kind of error.

use jsonc_parser::{
    CollectOptions, ParseOptions, ParseStringErrorKind,
    ast::Value,
    common::Range,
    errors::ParseErrorKind::{self as Kind},
    parse_to_ast,
};
use serde::de::IgnoredAny;

/// Disables all leniencies of the parser.
const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// What people are used to in the files of editors.
#[cfg(feature = "project")]
const WITH_COMMENTS: ParseOptions =
    ParseOptions { allow_comments: true, allow_trailing_commas: true, ..STRICT };

/// Where a mistake is, and what to do.
pub(crate) type Mistake = (Range, String);

/// Parses a text that is one JSON value.
pub(crate) fn parse(text: &str) -> Result<Value<'_>, Mistake> {
    let value = parse_by(text, &STRICT)?;
    // The parser accepts some things, such as line feeds in strings, that other readers of the file would not.
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Ok(value),
        Err(error) => Err(strict(text, &error)),
    }
}

/// The same, with comments and commas after the last of a list.
#[cfg(feature = "project")]
pub(super) fn parse_with_comments(text: &str) -> Result<Value<'_>, Mistake> {
    parse_by(text, &WITH_COMMENTS)
}

/// The same, with all else that the parser can forgive.
#[cfg(feature = "project")]
pub(crate) fn parse_leniently(text: &str) -> Result<Value<'_>, Mistake> {
    parse_by(text, &ParseOptions::default())
}

fn parse_by<'t>(text: &'t str, options: &ParseOptions) -> Result<Value<'t>, Mistake> {
    let start = Range::new(0, 0);
    if text.starts_with('\u{feff}') {
        let message = "the file begins with a byte order mark: save it as UTF-8 without one";
        return Err((start, message.to_owned()));
    }
    let parsed = parse_to_ast(text, &CollectOptions::default(), options).map_err(|error| {
        leading_zero(text, error.range())
            .unwrap_or_else(|| (error.range(), not_json(remedy(error.kind()))))
    })?;
    parsed.value.ok_or_else(|| (start, "the file is empty: write {} at least".to_owned()))
}

fn not_json(remedy: &str) -> String {
    format!("this is not JSON: {remedy}")
}

/// The parser takes 08 for two numbers without a comma between them.
fn leading_zero(text: &str, place: Range) -> Option<Mistake> {
    let (before, after) = text.split_at_checked(place.start)?;
    let is_one = before.ends_with('0') && after.starts_with(|c: char| c.is_ascii_digit());
    let zero = Range::new(place.start.checked_sub(1)?, place.start);
    is_one.then(|| (zero, not_json("no number begins with 0: write it without the 0")))
}

fn strict(text: &str, error: &serde_json::Error) -> Mistake {
    let line: usize =
        text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    // The column is counted in bytes; inside a character, the start of that character counts.
    let at = (line + error.column().saturating_sub(1)).min(text.len());
    let at = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let remedy = if error.to_string().starts_with("control character") {
        "a text must stay on one line: write \\n for a line feed and \\t for a tab"
    } else {
        "only spaces, tabs and line feeds may stand around values: take out what else is here"
    };
    (Range::new(at, at), not_json(remedy))
}

fn remedy(kind: &Kind) -> &'static str {
    match kind {
        Kind::CommentsNotAllowed | Kind::UnterminatedCommentBlock => {
            "it has no comments: take this one out"
        }
        Kind::TrailingCommasNotAllowed => "nothing follows this comma: take it out",
        Kind::ExpectedComma => "put a comma between the two",
        Kind::ExpectedColonAfterObjectKey => {
            "the name of a field needs a value: write \"name\": value"
        }
        Kind::ExpectedObjectValue => "a value is missing: write one after the colon",
        Kind::ExpectedStringObjectProperty | Kind::UnexpectedTokenInObject => {
            "a field must stand here: write \"name\": value, with double quotes around the name"
        }
        Kind::SingleQuotedStringsNotAllowed => "a text needs double quotes: write \"…\"",
        Kind::BareDecimalPointNumbersNotAllowed
        | Kind::ExpectedDigit
        | Kind::ExpectedDigitFollowingNegativeSign
        | Kind::ExpectedPlusMinusOrDigitInNumberLiteral
        | Kind::HexadecimalNumbersNotAllowed
        | Kind::NonFiniteNumbersNotAllowed
        | Kind::UnaryPlusNumbersNotAllowed => "this is no number: write it with digits only",
        Kind::MultipleRootJsonValues => {
            "the file goes on after the end of its object: take out what follows"
        }
        Kind::UnexpectedCloseBrace
        | Kind::UnexpectedCloseBracket
        | Kind::UnexpectedColon
        | Kind::UnexpectedComma => "a value must stand here: write one before this character",
        Kind::UnexpectedToken | Kind::UnexpectedWord => {
            "this is no value: write a number, true, false, or a text in double quotes"
        }
        Kind::UnterminatedArray => "this list has no end: close it with ]",
        Kind::UnterminatedObject => "this object has no end: close it with }",
        Kind::NestingDepthExceeded => "nothing is nested so deep: take the inner brackets out",
        Kind::String(ParseStringErrorKind::UnterminatedStringLiteral) => {
            "this text has no end: close it with a double quote"
        }
        Kind::String(
            ParseStringErrorKind::ExpectedFourHexDigits
            | ParseStringErrorKind::InvalidUnicodeEscapeSequence(_),
        ) => "\\u needs four hexadecimal digits that are a character: write the character itself",
        Kind::String(_) => "there is no such escape: write \\\\ for a backslash",
    }
}
