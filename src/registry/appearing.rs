//! Automatic service types.

use super::{
    PortSet, Registry,
    placement::{self, Ground},
};
use crate::{
    change::{Asker, Change},
    error::{Error, ErrorKind},
    port::{Port, PortRange},
    request::AllocateRequest,
    service_type::{Created, ServiceType, ServiceTypeName, near_miss},
    time::Timestamp,
};

/// A type with a range that does not exist yet.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The type, with the range.
    pub service_type: ServiceType,
    /// The new range.
    pub range: PortRange,
    /// When and how it was found.
    pub created: Created,
}

impl Plan {
    /// The type as it is written to the drop-in; the date of its first range stays.
    pub fn in_file(&self) -> ServiceType {
        let mut service_type = self.service_type.clone();
        service_type.created.get_or_insert_with(|| self.created.clone());
        service_type
    }

    /// The change to log once the type is in effect.
    pub fn change(&self, request: &AllocateRequest) -> Change {
        Change::AutoAllocate {
            service_type: request.service_type.clone(),
            range: self.range,
            ranges: self.service_type.ranges().collect(),
            placement: self.created.placement,
            asker: Asker::of(request),
        }
    }
}

impl Registry {
    /// Finds a range for a request whose type has none, or none with room.
    ///
    /// # Errors
    ///
    /// If there is no place for it: see [`placement`].
    pub fn plan(
        &self,
        request: &AllocateRequest,
        in_use: &PortSet,
        ephemeral: Option<PortRange>,
        at: Timestamp,
    ) -> Result<Plan, Error> {
        let (name, rules) = (&request.service_type, &self.rules);
        let ground = Ground { types: &rules.types, excluded: &rules.excluded, ephemeral, in_use };
        let known = rules.types.0.get(name);
        let place = match known {
            Some(known) => placement::grow(name, known, request.count, &rules.auto, ground)?,
            None => placement::place(name, request.count, &rules.auto, ground)?,
        };
        let created = Created { at, placement: place.placement, by: None };
        let mut service_type = known.cloned().unwrap_or_else(|| ServiceType::new(place.range));
        if known.is_some() {
            placement::add(&mut service_type, place.range);
        }
        Ok(Plan { service_type, range: place.range, created })
    }

    /// Whether an unknown type may get a range. `removed_by` is where the configuration says that there is none of that name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownServiceType`] or [`ErrorKind::AutoAllocationDisabled`] if it may not.
    pub fn may_appear(
        &self,
        name: &ServiceTypeName,
        create: bool,
        removed_by: Option<&str>,
    ) -> Result<(), Error> {
        let types = &self.rules.types;
        if let Some(origin) = removed_by {
            // What a person wrote overrides the service's own drop-in.
            let message = format!("there is no service type \"{name}\": {origin} removes it");
            let hint =
                "delete that null, give the type a port_range in a later file, or use another type";
            return Err(Error::new(ErrorKind::UnknownServiceType, message).suggest(hint));
        }
        if let Some(port) = name.as_str().parse().ok().and_then(Port::new) {
            // A number is meant as a port, not as the name of a type.
            let message = format!("{port} is a port, not a service type");
            return Err(Error::new(ErrorKind::UnknownServiceType, message)
                .suggest(format!("to ask for it: `styxy allocate dev --port {port}`")));
        }
        if name.as_str().starts_with('-') {
            let message = format!(
                "there is no service type \"{name}\", and it cannot be created automatically"
            );
            return Err(Error::new(ErrorKind::UnknownServiceType, message)
                .suggest("use a name that does not begin with a hyphen"));
        }
        let meant = near_miss(name.as_str(), types.names());
        if !self.rules.auto.enabled {
            let message = format!(
                "there is no service type \"{name}\", and automatic ranges are switched off"
            );
            let enable = "`styxy config auto-allocation enable` switches them on";
            // Joined, because some doors show only one suggestion.
            let hint = match meant {
                Some(meant) => format!("did you mean \"{meant}\"? If not: {enable}"),
                None => enable.to_owned(),
            };
            let known = types.names().collect::<Vec<_>>().join(", ");
            return Err(Error::new(ErrorKind::AutoAllocationDisabled, message)
                .suggest(hint)
                .suggest(format!("the known types are: {known}")));
        }
        match meant {
            Some(meant) if !create => Err(Error::new(
                ErrorKind::UnknownServiceType,
                format!("there is no service type \"{name}\""),
            )
            .suggest(format!(
                "did you mean \"{meant}\"? If it is a type of its own, say so with create (`--create`)"
            ))),
            _ => Ok(()),
        }
    }
}
