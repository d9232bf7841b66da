//! The environment variables that pass ports to a command, and the services that have these ports.

use std::{
    collections::{HashMap, HashSet},
    str::FromStr,
};

use super::{super::owner::put_own_process, CliError, usage};
use crate::{error::Error, service_type::Hold, value::Fields, word::is_variable};

/// An environment variable, and the service type of its port.
#[derive(Clone, Debug)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) service_type: Option<String>,
    /// The name of the service, if it is not named after the variable.
    pub(super) service_name: Option<String>,
}

impl FromStr for Variable {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, service_type) = match text.split_once('=') {
            Some((name, service_type)) => (name, Some(service_type)),
            None => (text, None),
        };
        let (service_type, service_name) = match service_type.and_then(|t| t.split_once(':')) {
            Some((service_type, service_name)) => (Some(service_type), Some(service_name)),
            None => (service_type, None),
        };
        if !is_variable(name) {
            return Err(Error::invalid(format!(
                "{name:?} is not the name of a variable: use letters, digits and underscores"
            )));
        }
        let [service_type, service_name] =
            [service_type, service_name].map(|word| word.map(str::to_owned));
        Ok(Self { name: name.to_owned(), service_type, service_name })
    }
}

/// A variable with its value.
#[derive(Clone, Debug)]
pub(super) struct Set {
    pub(super) name: String,
    pub(super) value: String,
}

impl FromStr for Set {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Error::invalid("which value does it get?").suggest("write NAME=VALUE")
        })?;
        let Variable { name, .. } = name.parse()?;
        Ok(Self { name, value: value.to_owned() })
    }
}

/// One lease of the command.
pub(super) struct Leased<'a> {
    pub(super) service_type: &'a str,
    /// The variable that gets the port.
    pub(super) variable: &'a str,
    /// Further variables for the same port.
    pub(super) others: Vec<&'a Variable>,
    pub(super) count: Option<u16>,
    /// The name of the service, if it was given.
    pub(super) name: Option<&'a str>,
    /// Whether the service is named after its variable, unless `name` is given, so that two of a type are distinct.
    pub(super) has_own_name: bool,
}

impl Leased<'_> {
    /// The options of its request, derived from those that were given for the first port.
    pub(super) fn options(&self, wanted: Fields, hold: Option<Hold>, is_first: bool) -> Fields {
        let mut options = wanted;
        options.put_some("count", self.count.map(u32::from));
        options.put_some("hold", hold.map(Hold::as_str));
        put_own_process(&mut options);
        options.put("use_claim", true);
        if !is_first {
            options.0.retain(|(key, _)| !["port", "template", "strict"].contains(key));
        }
        if self.has_own_name && (self.name.is_some() || options.get("service_name").is_none()) {
            options.0.retain(|(key, _)| *key != "service_name");
            options.put("service_name", self.own_name());
        }
        options
    }

    /// The given name, or one derived from the variable: `web` for WEB and WEB_PORT.
    pub(super) fn own_name(&self) -> String {
        if let Some(name) = self.name {
            return name.to_owned();
        }
        let name = self.variable.to_ascii_lowercase();
        name.strip_suffix("_port").filter(|rest| !rest.is_empty()).unwrap_or(&name).to_owned()
    }

    /// The variables and placeholders of the command's own port, each with the index of its port in the block.
    fn names_of_own(&self) -> Vec<(String, u16)> {
        let all_of_block = ["port", self.variable].into_iter().flat_map(|name| {
            let further = (1..self.count.unwrap_or(1)).map(move |n| (format!("{name}_{n}"), n));
            [(name.to_owned(), 0)].into_iter().chain(further)
        });
        let others = self.others.iter().map(|other| (other.name.clone(), 0));
        all_of_block.chain(others).chain([("STYXY_PORT".to_owned(), 0)]).collect()
    }
}

/// Checks that no variable gets two values, of which the command would see only one.
pub(super) fn have_one_value<'a>(
    given: &[Variable],
    leases: &[Leased],
    others: impl Iterator<Item = &'a str>,
) -> Result<(), CliError> {
    let clash = |name: &str, why: &str| {
        let error = Error::invalid(format!("the variable {name} {why}"));
        usage(&error.suggest("give each port a variable of its own"))
    };
    let mut names = HashSet::new();
    if let Some(again) = given.iter().find(|variable| !names.insert(&variable.name)) {
        return Err(clash(&again.name, "is given twice, and a variable has one value"));
    }
    let mut ports = HashMap::from([("STYXY_LEASE_ID".to_owned(), None)]);
    let own = leases.first().into_iter().flat_map(Leased::names_of_own);
    let own = own.map(|(name, place)| (name, Some((0, place))));
    let further = leases.iter().enumerate().skip(1);
    let further = further.map(|(index, leased)| (leased.variable.to_owned(), Some((index, 0))));
    for (name, port) in own.chain(further) {
        if ports.get(&name).is_some_and(|other| *other != port) {
            return Err(clash(&name, "is a variable that styxy sets itself"));
        }
        ports.insert(name, port);
    }
    for variable in others {
        if ports.insert(variable.to_owned(), None).is_some() {
            return Err(clash(variable, "is a variable that styxy sets itself"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_called_after_its_variable_or_as_given() {
        let own_name = |variable: &str, name| {
            let (others, count, has_own_name) = (Vec::new(), None, true);
            Leased { service_type: "dev", variable, others, count, name, has_own_name }.own_name()
        };
        let names = ["WEB", "WEB_PORT", "PORT", "_PORT", "API_PORT_2"].map(|v| own_name(v, None));
        assert_eq!(names, ["web", "web", "port", "_port", "api_port_2"]);
        assert_eq!(own_name("WEB_PORT", Some("front")), "front");
        let variable: Variable = "DB=database:orders".parse().unwrap();
        let words = [variable.service_type, variable.service_name].map(Option::unwrap);
        assert_eq!(words, ["database", "orders"]);
    }

    #[test]
    fn a_variable_may_name_a_type_of_its_own() {
        let variable: Variable = "API=api".parse().unwrap();
        assert_eq!(variable.service_type.as_deref(), Some("api"));
        assert!("PORT".parse::<Variable>().unwrap().service_type.is_none());
        for wrong in ["", "=api", "1A", "A-B", "A B=x"] {
            assert!(wrong.parse::<Variable>().is_err(), "{wrong}");
        }
    }
}
