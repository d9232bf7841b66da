//! Dictionaries of variants to and from the values of every door, and errors.

use std::{collections::HashMap, os::fd::AsFd, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeMap};
use zbus::{DBusError, Message, Signature, Type, Variant, message::Header, names::ErrorName};

use super::ERROR_PREFIX;
use crate::{
    error::Error,
    value::{Fields, Value},
};

/// What comes in.
pub(super) type Options<'a> = HashMap<&'a str, Variant<'a>>;

/// What goes out (`a{sv}`), in the order in which people read it.
#[derive(Debug)]
pub(crate) struct Dict(pub(crate) Fields);

impl Type for Dict {
    const SIGNATURE: &'static Signature = Options::SIGNATURE;
}

impl Serialize for Dict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.0.len()))?;
        for (key, value) in &self.0.0 {
            map.serialize_entry(key, &to_variant(value))?;
        }
        map.end()
    }
}

impl DBusError for Error {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name()).build(&self.to_string())
    }

    fn name(&self) -> ErrorName<'_> {
        let name = format!("{ERROR_PREFIX}{}", self.kind.names().code);
        ErrorName::try_from(name).expect("a prefix and a word are a name")
    }

    fn description(&self) -> Option<&str> {
        Some(&self.message)
    }
}

pub(super) fn values<'a>(options: &'a Options<'_>) -> impl Iterator<Item = (&'a str, Value)> {
    options.iter().map(|(key, value)| (*key, from_variant(value)))
}

/// What a variant says. Any whole number will do, whatever its type.
fn from_variant(variant: &Variant<'_>) -> Value {
    let whole = |number: i64| {
        u64::try_from(number).map_or_else(|_| Value::Other(number.to_string()), Value::U64)
    };
    match variant {
        Variant::Bool(value) => Value::Bool(*value),
        Variant::U8(value) => Value::U16((*value).into()),
        Variant::U16(value) => Value::U16(*value),
        Variant::U32(value) => Value::U32(*value),
        Variant::U64(value) => Value::U64(*value),
        Variant::I16(value) => whole((*value).into()),
        Variant::I32(value) => whole((*value).into()),
        Variant::I64(value) => whole(*value),
        Variant::Str(value) => Value::Str(value.to_string()),
        Variant::Variant(value) => from_variant(value),
        Variant::Fd(fd) => match fd.as_fd().try_clone_to_owned() {
            Ok(fd) => Value::Descriptor(Arc::new(fd)),
            Err(error) => Value::Other(format!("a descriptor that cannot be kept ({error})")),
        },
        other => Value::Other(format!("a value of type {}", other.value_signature())),
    }
}

fn to_variant(value: &Value) -> Variant<'_> {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::U16(value) => (*value).into(),
        Value::U32(value) => (*value).into(),
        Value::U64(value) => (*value).into(),
        Value::Str(value) | Value::Other(value) => value.as_str().into(),
        Value::Strings(values) => values.into(),
        Value::Ports(ports) => ports.into(),
        Value::Descriptor(fd) | Value::Process(_, fd) => Variant::Fd(fd.as_fd().into()),
        Value::Fields(fields) => {
            let entries = fields.0.iter().map(|(key, value)| (*key, to_variant(value)));
            entries.collect::<HashMap<_, _>>().into()
        }
    }
}
