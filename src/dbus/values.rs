//! Converts dictionaries of variants to and from the values that all doors use, and errors into replies.

use std::{collections::HashMap, fmt, os::fd::AsFd, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};
use zbus::{DBusError, Message, Signature, Type, Variant, message::Header, names::ErrorName};

use super::ERROR_PREFIX;
use crate::{
    error::{Error, ErrorKind},
    request::once,
    value::{Fields, Value},
};

/// The most entries of an incoming dictionary; no method has that many keys.
const MOST_ENTRIES: usize = 64;

/// The approximate limit of an outgoing list, in bytes: a D-Bus array has at most 64 MiB, and the bus
/// disconnects whoever sends a larger one (D-Bus Specification, "Summary of types").
const LARGEST_LIST: usize = 48 * 1024 * 1024;

/// An incoming dictionary (`a{sv}`). It is read entry by entry, because in memory a value takes twenty times
/// its message size.
pub(crate) struct Options<'a>(Vec<(&'a str, Variant<'a>)>);

impl Type for Options<'_> {
    const SIGNATURE: &'static Signature = HashMap::<&str, Variant<'_>>::SIGNATURE;
}

impl<'de: 'a, 'a> Deserialize<'de> for Options<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Vec<(&'de str, Variant<'de>)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a dictionary of at most {MOST_ENTRIES} entries")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if entries.len() == MOST_ENTRIES {
                        return Err(serde::de::Error::invalid_length(MOST_ENTRIES + 1, &self));
                    }
                    entries.push(entry);
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(Entries).map(Self)
    }
}

/// An outgoing list; an error if it does not fit into a message.
pub(super) fn bounded(list: Vec<Fields>) -> Result<Vec<Dict>, Error> {
    if list.iter().map(size).sum::<usize>() > LARGEST_LIST {
        let message =
            format!("{} entries are more than fit into one message of the bus", list.len());
        return Err(Error::new(ErrorKind::LimitExceeded, message).suggest(
            "ask for fewer at once, with a filter or in parts by limit, as `styxy list` does",
        ));
    }
    Ok(list.into_iter().map(Dict).collect())
}

fn size(fields: &Fields) -> usize {
    // Lengths, signatures and padding of a key and a value.
    const AROUND: usize = 32;
    let value = |value: &Value| match value {
        Value::Str(text) | Value::Other(text) => text.len(),
        Value::Strings(texts) => texts.iter().map(|text| text.len() + 8).sum(),
        Value::Ports(ports) => ports.len() * 2,
        Value::Fields(fields) => size(fields),
        _ => 0,
    };
    fields.0.iter().map(|(key, v)| AROUND + key.len() + value(v)).sum()
}

/// An outgoing dictionary (`a{sv}`), in the order in which people read it.
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
        // Clients that show an error use the first argument; the list of suggestions is for programs.
        Message::error(call, self.name()).build(&(self.to_string(), &self.suggestions))
    }

    fn name(&self) -> ErrorName<'_> {
        let name = format!("{ERROR_PREFIX}{}", self.kind.names().code);
        ErrorName::try_from(name).expect("a prefix and a word are a name")
    }

    fn description(&self) -> Option<&str> {
        Some(&self.message)
    }
}

/// The entries of a dictionary; an error if a key is given twice.
pub(crate) fn values<'a>(options: &'a Options<'_>) -> Result<Vec<(&'a str, Value)>, Error> {
    once(options.0.iter().map(|(key, value)| (*key, from_variant(value))).collect())
}

/// The value of a variant. Any integer type is accepted.
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

#[cfg(test)]
mod tests {
    use zbus::Message;

    use super::*;

    fn call(entries: usize) -> Message {
        let entries: HashMap<_, _> =
            (0..entries).map(|n| (n.to_string(), Variant::U32(1))).collect();
        Message::method_call("/", "List").build(&(entries,)).unwrap()
    }

    #[test]
    fn a_dictionary_of_more_entries_than_any_method_knows_is_not_read_to_its_end() {
        let (good, bad) = (call(MOST_ENTRIES).body(), call(100_000).body());
        assert_eq!(good.deserialize::<Options<'_>>().unwrap().0.len(), MOST_ENTRIES);
        let error = bad.deserialize::<Options<'_>>().err().unwrap().to_string();
        assert!(error.contains("at most 64 entries"), "{error}");
    }

    #[test]
    fn a_key_that_is_given_twice_loses_no_value_without_a_word() {
        let entry = |port: u16| ("port", Variant::U16(port));
        let options = |ports: [u16; 2]| Options(ports.map(entry).to_vec());
        let error = values(&options([3000, 8000])).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert!(error.message.contains("port is given twice"), "{error}");
    }

    #[test]
    fn a_list_that_the_bus_would_throw_the_service_out_for_is_refused() {
        let mut lease = Fields::default();
        lease.put("project_path", "/p".repeat(500));
        let list = |count| vec![lease.clone(); count];
        assert_eq!(bounded(list(1_000)).unwrap().len(), 1_000);
        let error = bounded(list(50_003)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::LimitExceeded);
        assert!(error.to_string().contains("50003 entries"), "{error}");
    }
}
