use std::{os::fd::OwnedFd, sync::Arc};

use super::{LONGEST_HEARTBEAT, Problems, mismatch, unknown, whole, word};
use crate::{
    error::Error,
    lease::{InstanceId, UnitName},
    value::Value,
    word::shortened,
};

/// Whose end is to end a lease, as a client says it.
#[derive(Clone, Debug, Default)]
pub enum OwnerRequest {
    /// Nobody's.
    #[default]
    None,
    /// The process of that PID.
    Pid(u32),
    /// The process that this descriptor is of (`pidfd_open(2)`).
    Pidfd(Arc<OwnedFd>),
    /// That unit of the user's manager.
    Unit(UnitName),
    /// The connection that asks.
    Connection,
}

/// A request of an instance to be known.
#[derive(Clone, Debug)]
pub struct InstanceRequest {
    /// Its name.
    pub instance_id: InstanceId,
    /// Its process, if that is to be watched.
    pub owner: OwnerRequest,
    /// Within how many seconds it sends its next heartbeat.
    pub heartbeat: Option<u64>,
}

impl InstanceRequest {
    /// Reads a request from what came through a door.
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
                _ => Err(unknown("option", key, &["heartbeat", "pid", "pidfd"])),
            });
        }
        let owner = problems.note(owner.request()).unwrap_or_default();
        if heartbeat.is_none() && matches!(owner, OwnerRequest::None) {
            problems.note::<()>(Err(Error::invalid(
                "nothing tells when the instance ends: give a heartbeat in seconds, a pid or a pidfd",
            )));
        }
        problems.or(Self { instance_id, owner, heartbeat })
    }
}

/// The options that say who the owner is.
#[derive(Default)]
pub(super) struct OwnerOptions {
    kind: Option<String>,
    pid: Option<u32>,
    pidfd: Option<Arc<OwnedFd>>,
    unit: Option<UnitName>,
}

impl OwnerOptions {
    /// Takes an option if it is one of these.
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

    /// Who is meant. What names an owner may stand without `owner`.
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
