//! Service types: classes of services, each with its own range of ports.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    auto_allocation::Placement,
    error::Error,
    port::{Port, PortRange, Protocol},
    time::Timestamp,
    value::Fields,
    word::{shortened, spelled, word},
};

word! {
    /// The name of a service type: `dev`, `api`, … 1 to 50 characters of `[A-Za-z0-9-]`.
    ServiceTypeName, "service_type", |text| spelled(text, 50, "-"),
    "use 1 to 50 letters, digits or hyphens"
}

word! {
    /// The name of an offset that a request may give instead of a port: `main`, `dev`, …
    TemplateName, "template", |text| spelled(text, 50, "-"),
    "use 1 to 50 letters, digits or hyphens"
}

/// Named offsets from the first preferred port of a type.
pub type Templates = BTreeMap<TemplateName, u16>;

/// How many leases of a service type there may be at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum InstanceBehavior {
    /// Any number; every request gets a port of its own.
    #[default]
    Multi,
    /// One for all programs of the user; the next caller gets the lease that is there (a *singleton*).
    Single,
}

impl InstanceBehavior {
    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Multi => "multi",
            Self::Single => "single",
        }
    }
}

/// How a port is kept until it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// The service keeps a socket bound to it, not listening. TCP only.
    Guard,
    /// Not at all.
    #[default]
    None,
    /// The bound socket goes to the client.
    Socket,
    /// The owner of the lease keeps a socket of its own bound to it, and the service has none. TCP only.
    #[cfg_attr(test, schemars(skip))]
    Client,
}

impl Hold {
    /// Its name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::None => "none",
            Self::Socket => "socket",
            Self::Client => "client",
        }
    }

    /// One that needs no socket handed over: the others are for callers of `AllocateSocket` on the bus.
    ///
    /// # Errors
    ///
    /// It is none of these.
    pub fn without_socket(text: &str) -> Result<Self, Error> {
        match text.parse() {
            Ok(hold @ (Self::Guard | Self::None)) => Ok(hold),
            Ok(Self::Socket) => Err(Error::invalid(
                "no socket can be handed over here: give \"guard\" or \"none\", or call AllocateSocket on the bus",
            )),
            Ok(Self::Client) | Err(_) => Err(Error::invalid(format!(
                "{:?} is not a way to hold a port: give \"guard\" or \"none\"",
                shortened(text)
            ))),
        }
    }
}

impl Hold {
    /// The hold of that name that a live lease may be given.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`](crate::error::ErrorKind::InvalidArgument).
    pub fn of_live_lease(text: &str) -> Result<Self, Error> {
        match text {
            "client" => Ok(Self::Client),
            "guard" => Ok(Self::Guard),
            _ => {
                let text = shortened(text);
                Err(Error::invalid(format!("hold must be \"client\" or \"guard\", not {text:?}")))
            }
        }
    }
}

/// The hold of a new lease.
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

/// Which requests for one service, made as a claim, share a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Claims {
    /// All.
    #[default]
    All,
    /// Those that give a name: without one, each is another service.
    Named,
}

impl Claims {
    /// Its name in every interface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Named => "named",
        }
    }
}

/// The settings of a service type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceType {
    /// The ports that it may have; a request for a particular port may name another.
    pub port_range: PortRange,
    /// Further ranges, used when the first is full.
    pub more_ranges: Vec<PortRange>,
    /// Ports to try first, in this order.
    pub preferred_ports: Vec<Port>,
    /// Whether all callers share one lease, or each gets its own.
    pub instance_behavior: InstanceBehavior,
    /// Which claims share a lease.
    pub claims: Claims,
    /// How its ports are kept until they are used, unless a request says otherwise.
    pub hold: Hold,
    /// The protocol of its ports, unless a request says otherwise.
    pub protocol: Protocol,
    /// How long a request waits for a lease to end if no port is free, in milliseconds.
    pub wait_ms: u64,
    /// A description, for people.
    pub description: String,
    /// Examples of programs of this type, for people.
    pub examples: Vec<String>,
    /// How it was created, if automatically: only such a type grows and can be undone.
    pub created: Option<Created>,
}

impl ServiceType {
    /// A type with this range, and defaults for everything else.
    pub fn new(port_range: PortRange) -> Self {
        Self {
            port_range,
            more_ranges: Vec::new(),
            preferred_ports: Vec::new(),
            instance_behavior: InstanceBehavior::Multi,
            claims: Claims::All,
            hold: Hold::Guard,
            protocol: Protocol::Tcp,
            wait_ms: 0,
            description: String::new(),
            examples: Vec::new(),
            created: None,
        }
    }

    /// How its ports are actually kept: a guard can hold TCP ports only.
    pub fn kept_by(&self) -> Hold {
        match (self.protocol, self.hold) {
            (Protocol::Udp, Hold::Guard) => Hold::None,
            (_, hold) => hold,
        }
    }

    /// The type as every door shows it.
    pub fn fields(&self, name: &ServiceTypeName) -> Fields {
        let mut fields = Fields::default();
        fields.put("service_type", name.as_str());
        fields.put("ranges", self.ranges().map(|range| range.to_string()).collect::<Vec<_>>());
        let preferred = self.preferred_ports.iter();
        fields.put("preferred_ports", preferred.map(|port| port.get()).collect::<Vec<_>>());
        fields.put("instance_behavior", self.instance_behavior.as_str());
        fields.put("claims", self.claims.as_str());
        fields.put("hold", self.kept_by().as_str());
        fields.put("protocol", self.protocol.as_str());
        fields.put("wait_ms", self.wait_ms);
        fields.put("description", self.description.as_str());
        fields.put("examples", self.examples.clone());
        fields.put("automatic", self.created.is_some());
        fields.put_some("placement", self.created.as_ref().map(|c| c.placement.as_str()));
        fields
    }

    /// All its ranges, in the order in which they are used.
    pub fn ranges(&self) -> impl Iterator<Item = PortRange> {
        std::iter::once(self.port_range).chain(self.more_ranges.iter().copied())
    }

    /// Whether the port is in one of its ranges.
    pub fn contains(&self, port: Port) -> bool {
        self.ranges().any(|range| range.contains(port))
    }

    /// How many ports it has.
    pub fn len(&self) -> usize {
        self.ranges().map(PortRange::len).sum()
    }

    /// Always false: a range has at least one port.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Its ranges for people: `10000-10009, 10030-10039`.
    pub fn describe_ranges(&self) -> String {
        let ranges: Vec<_> = self.ranges().map(|range| range.to_string()).collect();
        ranges.join(", ")
    }
}

/// How a service type came about that nobody wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Created {
    /// When, in RFC 3339.
    #[serde(with = "crate::time::rfc3339")]
    #[cfg_attr(test, schemars(with = "String", length(max = 40)))]
    pub at: Timestamp,
    /// How its place was found.
    pub placement: Placement,
    /// The command that asked first, if it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(test, schemars(length(max = 100)))]
    pub by: Option<String>,
}

/// All service types, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTypes(pub BTreeMap<ServiceTypeName, ServiceType>);

impl ServiceTypes {
    /// Returns the type with this name, or an error that suggests the nearest name.
    pub fn get(&self, name: &ServiceTypeName) -> Result<&ServiceType, Error> {
        self.0.get(name).ok_or_else(|| {
            Error::unknown_service_type(
                name.as_str(),
                nearest(name.as_str(), self.names()),
                self.names(),
            )
        })
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(ServiceTypeName::as_str)
    }
}

/// The known name that this one looks like a typo of, the nearest if there are several: it differs in case, or
/// in letters that are swapped, wrong, extra or missing. Names that differ in a number or have another number
/// of parts are intended.
pub fn near_miss<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    known
        .map(|known| (known.to_ascii_lowercase(), known))
        .filter(|(lower, _)| is_near_miss(&name, lower))
        .min_by_key(|(lower, known)| (strsim::damerau_levenshtein(&name, lower), *known))
        .map(|(_, known)| known)
}

fn is_near_miss(name: &str, known: &str) -> bool {
    if joined(name) == joined(known) {
        return true;
    }
    let parts = |text: &str| text.split('-').map(str::to_owned).collect::<Vec<_>>();
    let (mine, theirs) = (parts(name), parts(known));
    mine.len() == theirs.len()
        && mine.iter().zip(&theirs).all(|(mine, theirs)| mine == theirs || slipped(mine, theirs))
}

/// The name without hyphens, except for those between numbers.
fn joined(name: &str) -> String {
    let mut joined = String::new();
    for part in name.split('-').filter(|part| !part.is_empty()) {
        if joined.ends_with(|c: char| c.is_ascii_digit())
            && part.starts_with(|c: char| c.is_ascii_digit())
        {
            joined.push('-');
        }
        joined.push_str(part);
    }
    joined
}

fn slipped(mine: &str, theirs: &str) -> bool {
    let only = |text: &str, digits: bool| {
        text.chars().filter(|c| c.is_ascii_digit() == digits).collect::<String>()
    };
    let sorted = |text: &str| {
        let mut letters: Vec<_> = text.bytes().collect();
        letters.sort_unstable();
        letters
    };
    let length = mine.len().min(theirs.len());
    let most = if length < 8 { 1 } else { 2 };
    // In a short word, a different letter makes a different word: app is not api.
    let is_word = length < 5 && mine.len() == theirs.len() && sorted(mine) != sorted(theirs);
    length >= 3
        && !is_word
        && only(mine, true) == only(theirs, true)
        && only(mine, false) != only(theirs, false)
        && strsim::damerau_levenshtein(mine, theirs) <= most
}

/// The candidate that is most similar to the text, if any is similar enough.
pub(crate) fn nearest<'a>(
    text: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates.filter_map(|known| Some((slips(text, known)?, known))).min().map(|(_, known)| known)
}

/// How many slips are between the text and the known one, capitals aside; `None` if there are too many for them to be
/// similar.
pub(crate) fn slips(text: &str, known: &str) -> Option<usize> {
    let [text, known] = [text, known].map(str::to_ascii_lowercase);
    let slips = strsim::damerau_levenshtein(&text, &known);
    (slips <= (known.len().max(text.len()) / 3).max(1)).then_some(slips)
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

    #[test]
    fn a_slip_of_the_hand_is_told_from_a_name_of_its_own() {
        let known = ["dev", "api", "database", "frontend", "tool-1", "monitoring", "ui"];
        for (slip, meant) in [
            ("dve", "dev"),
            ("Dev", "dev"),
            ("dev-", "dev"),
            ("frontned", "frontend"),
            ("front-end", "frontend"),
            ("databsae", "database"),
            ("tol-1", "tool-1"),
        ] {
            assert_eq!(near_miss(slip, known.into_iter()), Some(meant), "{slip}");
        }
        for own in ["grafana", "tool-2", "tool-17", "dev2", "dev-2", "monitoring-a", "gui", "db"] {
            assert_eq!(near_miss(own, known.into_iter()), None, "{own}");
        }
    }
}
