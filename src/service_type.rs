//! Service types: classes of services, each with a range of ports of its own.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    port::{Port, PortRange},
    word::{shortened, spelled, word},
};

word! {
    /// The name of a service type: `dev`, `api`, … 1 to 50 characters of `[A-Za-z0-9-]`.
    ServiceTypeName, "service_type", |text| spelled(text, 50, "-"),
    "use 1 to 50 letters, digits or hyphens"
}

/// How many leases of a service type there may be at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InstanceBehavior {
    /// Any number; every request gets a port of its own.
    #[default]
    Multi,
    /// One for everybody; the next caller gets the lease that is there (a *singleton*).
    Single,
}

impl InstanceBehavior {
    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Multi => "multi",
            Self::Single => "single",
        }
    }
}

/// How a port is kept until it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// The service keeps a socket bound to it, not listening. TCP only.
    Guard,
    /// Not at all.
    #[default]
    None,
    /// The bound socket goes to the client.
    Socket,
}

impl Hold {
    /// The word for it in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::None => "none",
            Self::Socket => "socket",
        }
    }
}

impl FromStr for Hold {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "guard" => Ok(Self::Guard),
            "none" => Ok(Self::None),
            "socket" => Ok(Self::Socket),
            _ => Err(Error::invalid(format!(
                "{:?} is not a way to hold a port: give \"guard\", \"none\" or \"socket\"",
                shortened(text)
            ))),
        }
    }
}

/// What the configuration says of a service type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceType {
    /// The ports that it may have, unless another is asked for by number.
    pub port_range: PortRange,
    /// Ports to try first, in this order.
    pub preferred_ports: Vec<Port>,
    /// One lease for all, or one each.
    pub instance_behavior: InstanceBehavior,
    /// How its ports are kept until they are used, unless a request says otherwise.
    pub hold: Hold,
    /// What it is for, for people.
    pub description: String,
}

/// All service types, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTypes(pub BTreeMap<ServiceTypeName, ServiceType>);

impl ServiceTypes {
    /// Returns the type of that name, or an error that names the nearest one.
    pub fn get(&self, name: &ServiceTypeName) -> Result<&ServiceType, Error> {
        self.0.get(name).ok_or_else(|| {
            let known = || self.0.keys().map(ServiceTypeName::as_str);
            Error::unknown_service_type(name.as_str(), nearest(name.as_str(), known()), known())
        })
    }
}

/// The candidate that looks most like the text, if one looks like it at all.
pub(crate) fn nearest<'a>(
    text: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let text = text.to_ascii_lowercase();
    candidates
        .map(|known| (strsim::damerau_levenshtein(&text, &known.to_ascii_lowercase()), known))
        .filter(|(distance, known)| *distance <= (known.len().max(text.len()) / 3).max(1))
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_an_alphabet_and_a_length() {
        for good in ["dev", "a", "my-Type-2", &"x".repeat(50)] {
            assert!(good.parse::<ServiceTypeName>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "../etc", "dev_1", "ü", &"x".repeat(51), "a\n"] {
            assert!(bad.parse::<ServiceTypeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_near_miss_finds_what_was_meant() {
        let known = ["dev", "api", "database", "monitoring"];
        assert_eq!(nearest("dve", known.into_iter()), Some("dev"));
        assert_eq!(nearest("Dev", known.into_iter()), Some("dev"));
        assert_eq!(nearest("databse", known.into_iter()), Some("database"));
        assert_eq!(nearest("grafana", known.into_iter()), None);
    }
}
