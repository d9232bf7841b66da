//! Values as they cross a door: what D-Bus variants and JSON values have in common.
//!
//! Both doors convert to and from these, so that every key is spelled, typed and checked in one place.

use std::{os::fd::OwnedFd, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeMap};

/// One value.
#[derive(Clone, Debug)]
pub enum Value {
    /// A boolean (`b`).
    Bool(bool),
    /// A port or another small number (`q`).
    U16(u16),
    /// A count (`u`).
    U32(u32),
    /// A time or a large number (`t`).
    U64(u64),
    /// A string (`s`).
    Str(String),
    /// A list of strings (`as`).
    Strings(Vec<String>),
    /// A dictionary (`a{sv}`).
    Fields(Fields),
    /// Ports (`aq`).
    Ports(Vec<u16>),
    /// A descriptor (`h`), on the bus only.
    Descriptor(Arc<OwnedFd>),
    /// A process named by a command: by its descriptor (`h`) on the bus, by its PID elsewhere.
    Process(u32, Arc<OwnedFd>),
    /// A value that no option accepts; the text describes it in an error message.
    Other(String),
}

/// A dictionary that keeps the order of its keys.
#[derive(Clone, Debug, Default)]
pub struct Fields(pub Vec<(&'static str, Value)>);

impl Fields {
    /// Adds a field.
    pub fn put(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.push((key, value.into()));
    }

    /// Adds a field if there is a value.
    pub fn put_some(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    /// The value of that key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::U16(value) => serializer.serialize_u16(*value),
            Self::U32(value) => serializer.serialize_u32(*value),
            Self::U64(value) => serializer.serialize_u64(*value),
            Self::Str(value) | Self::Other(value) => serializer.serialize_str(value),
            Self::Strings(values) => values.serialize(serializer),
            Self::Ports(ports) => ports.serialize(serializer),
            Self::Fields(fields) => fields.serialize(serializer),
            Self::Descriptor(_) => serializer.serialize_none(),
            Self::Process(pid, _) => serializer.serialize_u32(*pid),
        }
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident),+) => {
        $(impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        })+
    };
}

from!(bool => Bool, u16 => U16, u32 => U32, u64 => U64, String => Str, Vec<String> => Strings, Vec<u16> => Ports, Fields => Fields);

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Str(value.to_owned())
    }
}
