//! Texts and numbers with rules.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// Any JSON.
pub(super) type Anything = serde_json::Value;

/// A type of texts that follow a pattern.
macro_rules! text {
    ($($(#[doc = $doc:literal])* $name:ident, $pattern:literal, $example:literal;)*) => {$(
        pub(super) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "description": concat!($($doc),*).trim(),
                    "pattern": $pattern,
                    "examples": [$example],
                })
            }
        }
    )*};
}

text! {
    /// The class of a service
    TypeName, "^[A-Za-z0-9-]{1,50}$", "dev";
    /// The name of a service, or of the program of one without a name
    Name, "^[A-Za-z0-9._-]{1,100}$", "web";
    /// The agent, session or tool that asks
    InstanceName, "^[A-Za-z0-9_-]{1,100}$", "agent-7";
    /// The name of an offset from the first preferred port of a type
    Template, "^[A-Za-z0-9-]{1,50}$", "main";
    /// An absolute path, as a name: it is never opened
    Folder, r"^/[^\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]{0,240}$", "/home/dev/shop";
    /// The whole name of a unit of the user's service manager
    Unit, r"^[A-Za-z0-9:_.@\\-]{1,200}\.[a-z]{1,20}$", "web.service";
    /// A UUID
    Id, "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$", "5f0c7b9e-3f53-4d2c-9a3e-0f6f1f3f7a11";
    /// A SHA-256 in hexadecimal digits
    Sha256, "^[0-9a-f]{64}$", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    /// A time of RFC 3339 in UTC
    Time, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", "2026-11-28T09:00:00.000Z";
}

/// A type of numbers or words.
macro_rules! schema {
    ($($name:ident, $schema:tt;)*) => {$(
        pub(super) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

schema! {
    ProtocolName, {"type": "string", "enum": ["tcp", "udp", "both"]};
    HoldName, {"type": "string", "enum": ["guard", "none"]};
    Keeper, {"type": "string", "enum": ["client", "guard"]};
    RemapName, {"type": "string", "enum": ["private", "conflict"]};
    OwnerKind, {"type": "string", "enum": ["none", "process", "unit", "connection"]};
    Ttl, {"type": "integer", "minimum": 1, "maximum": 31_536_000, "description": "Seconds"};
    Pid, {"type": "integer", "minimum": 1, "maximum": 2_147_483_647};
    Count, {"type": "integer", "minimum": 1, "maximum": 1_000};
    PreferredPort, {"description": "A number, or its decimal digits", "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 65_535},
        {"type": "string", "pattern": "^(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})$"}
    ]};
    True, {"const": true};
    False, {"const": false};
}
