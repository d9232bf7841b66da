use std::{os::fd::OwnedFd, sync::Arc};

use super::{LONGEST_HEARTBEAT, Problems, mismatch, unknown, whole, word};
use crate::{
    error::Error,
    lease::{InstanceId, ProjectPath, UnitName},
    value::Value,
    word::shortened,
};

/// The owner of a lease, as requested by a client.
#[derive(Clone, Debug, Default)]
pub enum OwnerRequest {
    /// No owner.
    #[default]
    None,
    /// The process with this PID.
    Pid(u32),
    /// The process with this PID if the caller descends from it or it from the caller, else the caller.
    Related(u32),
    /// The process of this descriptor (`pidfd_open(2)`).
    Pidfd(Arc<OwnedFd>),
    /// This unit of the user's service manager.
    Unit(UnitName),
    /// The connection of the caller.
    Connection,
}

/// A request to register an instance.
#[derive(Clone, Debug)]
pub struct InstanceRequest {
    /// Its id.
    pub instance_id: InstanceId,
    /// Its process, if that should be watched.
    pub owner: OwnerRequest,
    /// The longest time until its next heartbeat, in seconds.
    pub heartbeat: Option<u64>,
    /// The folder that it works in.
    pub working_directory: Option<ProjectPath>,
    /// What else it says of itself.
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

impl InstanceRequest {
    /// The keys of the options.
    pub(crate) const OPTIONS: [&str; 3] = ["heartbeat", "pid", "pidfd"];

    /// Parses a request from a door.
    pub fn parse<K: AsRef<str>>(
        instance_id: &str,
        options: impl IntoIterator<Item = (K, Value)>,
    ) -> Result<Self, Error> {
        let instance_id = instance_id.parse()?;
        let mut problems = Problems::default();
        let mut owner = OwnerOptions::default();
        let mut heartbeat = None;
        for (key, value) in options {
            let key = key.as_ref();
            problems.note(match key {
                "heartbeat" => whole(key, &value, LONGEST_HEARTBEAT).map(|v| heartbeat = Some(v)),
                "pid" | "pidfd" => owner.take(key, &value).unwrap_or(Ok(())),
                _ => Err(unknown("option", key, &Self::OPTIONS)),
            });
        }
        let owner = problems.note(owner.request()).unwrap_or_default();
        if heartbeat.is_none() && matches!(owner, OwnerRequest::None) {
            problems.note::<()>(Err(Error::invalid(
                "nothing tells when the instance ends: give a heartbeat in seconds, a pid or a pidfd",
            )));
        }
        problems.or(Self { instance_id, owner, heartbeat, working_directory: None, metadata: None })
    }
}

/// The options that specify the owner.
#[derive(Default)]
pub(super) struct OwnerOptions {
    kind: Option<String>,
    pid: Option<u32>,
    pidfd: Option<Arc<OwnedFd>>,
    unit: Option<UnitName>,
}

impl OwnerOptions {
    /// Parses an option, if it is one of these.
    pub(super) fn take(&mut self, key: &str, value: &Value) -> Option<Result<(), Error>> {
        Some(match key {
            "owner" => match value {
                Value::Str(kind) => {
                    self.kind = Some(kind.clone());
                    Ok(())
                }
                other => Err(mismatch(key, "a string", other)),
            },
            "pid" => whole(key, value, i32::MAX.unsigned_abs().into())
                .map(|pid| self.pid = u32::try_from(pid).ok()),
            "pidfd" => match value {
                Value::Descriptor(pidfd) | Value::Process(_, pidfd) => {
                    self.pidfd = Some(Arc::clone(pidfd));
                    Ok(())
                }
                other => Err(mismatch(key, "the descriptor of a process", other)),
            },
            "unit" => word(key, value).map(|unit| self.unit = Some(unit)),
            _ => return None,
        })
    }

    /// The requested owner. `owner` may be left out if another option names one.
    pub(super) fn request(self) -> Result<OwnerRequest, Error> {
        let Self { kind, pid, pidfd, unit } = self;
        let kind = kind.as_deref();
        match (kind, pid, pidfd, unit) {
            (None | Some("none"), None, None, None) => Ok(OwnerRequest::None),
            (None | Some("process"), Some(pid), None, None) => Ok(OwnerRequest::Pid(pid)),
            (None | Some("process"), None, Some(pidfd), None) => Ok(OwnerRequest::Pidfd(pidfd)),
            (None | Some("unit"), None, None, Some(unit)) => Ok(OwnerRequest::Unit(unit)),
            (Some("connection"), None, None, None) => Ok(OwnerRequest::Connection),
            (Some("process"), None, None, None) => {
                Err(Error::invalid("owner process needs a pid or a pidfd"))
            }
            (Some("unit"), None, None, None) => Err(Error::invalid("owner unit needs a unit")),
            (Some(kind), ..) if !["none", "process", "unit", "connection"].contains(&kind) => {
                Err(Error::invalid(format!(
                    "{:?} is not an owner: give \"none\", \"process\", \"unit\" or \"connection\"",
                    shortened(kind)
                )))
            }
            _ => Err(Error::invalid(
                "a lease has one owner: give a pid, a pidfd or a unit, and an owner that fits",
            )),
        }
    }
}
