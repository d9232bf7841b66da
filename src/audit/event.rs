//! The journal event of each kind of change. The `MESSAGE_ID`s are explained in `systemd/styxy.catalog`.

use std::fmt::Write;

use crate::{
    auto_allocation::Placement,
    change::{Asker, Change, Denial, Merge, Record, Remembers, TypeRanges},
    lease::{Client, EndReason, Instance, Lease, MemoryKey, Use},
    port::{Port, PortRange},
    service_type::{Hold, ServiceTypeName},
    value::Fields,
    word::counted,
};

/// The most ports that a message names.
const MOST_NAMED: usize = 20;

/// A port was granted.
pub const ALLOCATE: &str = "817da49931014473acfa25d4aac2c469";
/// A port that a project asks for was mapped to a real one.
pub const REMAP: &str = "2e77f6d4919544d982485a9f58b59a07";
/// A claim was requested again.
pub const REUSE: &str = "bbad1e013ce4478dbbd76ede7527dd0c";
/// A share of a claim has ended.
pub const LEAVE: &str = "1940c5103d624bf3abe751483bf1e7cb";
/// A singleton's lease was shared.
pub const SINGLETON_REUSE: &str = "0c0e95d3a8604c0e89569eae75b30b0a";
/// A holder of a shared singleton is gone.
pub const SINGLETON_LEAVE: &str = "5e35c48e6797480185b95382b4a5b596";
/// A service type was given a range automatically.
pub const AUTO_ALLOCATE: &str = "ad7a5fac114f47b69f923521ae2e1e90";
/// An automatic service type was removed.
pub const UNDO_AUTO_ALLOCATION: &str = "fbf9cccd72e24ae69e6bacb7a77d35fa";
/// A lease was released.
pub const RELEASE: &str = "354c7f36c4ac4609863a2c9dfe17fe12";
/// A lease ended by itself.
pub const EXPIRE: &str = "1509ddd36fb140008d978425a0f1a8e6";
/// The owner of a lease is gone, but something still listens on its port.
pub const ORPHAN: &str = "6d2001f74961400cb42ded243b0d997f";
/// A lease's time limit was restarted.
pub const RENEW: &str = "9a3fe27289e74510b977571f1bc60d01";
/// A server uses a claim, or nobody has for so long that it is no longer guarded.
pub const CLAIM: &str = "4b6a3f7d0e0c4ad0a0a1a35b0c4e61d2";
/// The owner of a lease keeps its port bound itself, or the service guards it again.
pub const HOLD: &str = "8ff62ce401c443129a4476e602b5fc59";
/// A remembered port was forgotten.
pub const FORGET: &str = "8561abbd12364e56aa3dbb8988ac57cf";
/// An instance announced itself.
pub const REGISTER_INSTANCE: &str = "57b7abd127434281a4121bc1e10b4840";
/// An instance is gone.
pub const END_INSTANCE: &str = "9c7b2e33b478400b87e4cb62d86751d1";
/// A request was refused.
pub const DENY: &str = "cfde4e3d666345f3b7631cc38a36a9ff";
/// The configuration was reloaded.
pub const CONFIG_RELOAD: &str = "df62e7b773934858a66261eb60432f79";
/// The configuration has a problem.
pub const CONFIG_ERROR: &str = "4415a3450fa34b1eb9bb2190cc85cb7d";
/// Stored state was damaged.
pub const RECOVER: &str = "41370c45c5f8443e8ea378327c3b7b6c";
/// Another registry of the user was merged into this one.
pub const MERGE: &str = "68acba0db8c7451d9dd6dd8ebcf34d0a";
/// The HTTP door over TCP has another token.
pub const SET_TOKEN: &str = "b8b7727c2f0a41bd8fffd9108bf347ed";

/// The actions of events, as in `STYXY_ACTION`.
pub const ACTIONS: [&str; 23] = [
    "allocate",
    "remap",
    "reuse",
    "leave",
    "singleton_reuse",
    "singleton_leave",
    "release",
    "expire",
    "orphan",
    "renew",
    "claim",
    "hold",
    "forget",
    "register_instance",
    "end_instance",
    "deny",
    "auto_allocate",
    "undo_auto_allocation",
    "config_reload",
    "config_error",
    "recover",
    "merge",
    "set_token",
];

/// An event: a message for people, and the `STYXY_` fields for programs.
#[derive(Clone, Debug)]
pub struct Event {
    /// The kind of event, as a 128-bit id (sd-id128(3)).
    pub message_id: &'static str,
    /// Whether somebody should look at it: priority 4 (warning) instead of 5 (notice).
    pub warning: bool,
    /// What happened, for people.
    pub message: String,
    /// The fields, by their journal names.
    pub fields: Fields,
}

impl Event {
    /// The event of a change.
    pub fn of(record: &Record, state_id: &str) -> Self {
        let mut event = match &record.change {
            Change::Allocate { lease, remembers } => allocate(lease, *remembers),
            Change::Reuse { lease } => reuse(lease),
            Change::Leave { lease, reason } => leave(lease, *reason),
            Change::Release { lease, reason } => release(lease, *reason),
            Change::Expire { lease, reason, .. } => expire(lease, *reason),
            Change::Orphan { lease } => orphan(lease),
            Change::Renew { lease } => renew(lease),
            Change::Claim { lease } => claim(lease),
            Change::Hold { lease } => hold(lease),
            Change::Forget { key, port } => forget(key, *port),
            Change::RegisterInstance { instance } => register_instance(instance),
            Change::EndInstance { instance, reason } => end_instance(instance, reason),
            Change::Deny(denial) => deny(denial),
            Change::AutoAllocate { service_type, range, ranges, placement, asker } => {
                auto_allocate(service_type, *range, ranges, *placement, asker)
            }
            Change::UndoAutoAllocation { service_type, ranges, placement } => {
                undo_auto_allocation(service_type, ranges, *placement)
            }
            Change::ConfigReload { added, changed, removed, .. } => {
                config_reload(added, changed, removed)
            }
            Change::ConfigError { reason } => config_error(reason),
            Change::Recover { reason } => recover(reason),
            Change::Merge(taken) => merge(taken),
            Change::SetToken { .. } => set_token(),
        };
        event.fields.put("STYXY_SEQ", record.seq);
        event.fields.put("STYXY_STATE_ID", state_id);
        event.fields.put("STYXY_TIME", record.at.to_string());
        if let Some(Client { transport, pid, uid, comm, parent }) = &record.client {
            event.fields.put("STYXY_TRANSPORT", transport.as_str());
            event.fields.put_some("STYXY_CLIENT_PID", *pid);
            event.fields.put_some("STYXY_CLIENT_UID", *uid);
            event.fields.put_some("STYXY_CLIENT_COMM", comm.as_deref());
            event.fields.put_some("STYXY_CLIENT_PARENT", parent.as_deref());
        }
        event
    }

    fn new(message_id: &'static str, action: &str, message: String) -> Self {
        let mut fields = Fields::default();
        fields.put("STYXY_ACTION", action);
        Self { message_id, warning: false, message, fields }
    }

    fn warning(mut self) -> Self {
        self.warning = true;
        self
    }

    fn with(mut self, key: &'static str, value: Option<&str>) -> Self {
        self.fields.put_some(key, value);
        self
    }

    fn about(mut self, lease: &Lease) -> Self {
        let fields = &mut self.fields;
        fields.put("STYXY_PORT", lease.port.get());
        fields.put("STYXY_PROTOCOL", lease.protocol.as_str());
        fields.put_some("STYXY_ASKED", lease.asked.map(Port::get));
        fields.put("STYXY_LEASE_ID", lease.lease_id.to_string());
        fields.put("STYXY_OWNER", lease.owner.to_string());
        fields.put("STYXY_HOLD", lease.hold_now().as_str());
        self.with("STYXY_SERVICE_TYPE", Some(lease.service_type.as_str()))
            .with("STYXY_SERVICE_NAME", lease.name().map(|name| name.as_str()))
            .with("STYXY_INSTANCE_ID", lease.instance_id.as_ref().map(|id| id.as_str()))
            .with("STYXY_PROJECT_PATH", lease.project_path.as_ref().map(|path| path.as_str()))
            .with("STYXY_PACKAGE_PATH", lease.package_path.as_ref().map(|path| path.as_str()))
    }
}

fn allocate(lease: &Lease, remembers: Remembers) -> Event {
    let (message_id, action, mut message) = match (lease.asked, &lease.project_path) {
        (Some(asked), Some(project)) => {
            let message = format!("Port {asked} of {project} is really {}", lease.port);
            (REMAP, "remap", message)
        }
        _ => (ALLOCATE, "allocate", format!("Granted {} to {}", port(lease), describe(lease))),
    };
    let Remembers::Moved { from } = remembers else {
        return Event::new(message_id, action, message).about(lease);
    };
    let _ = write!(message, ", which is remembered from now on instead of {from}");
    let mut event = Event::new(message_id, action, message).about(lease);
    event.fields.put("STYXY_PORT_BEFORE", from.get());
    event
}

fn reuse(lease: &Lease) -> Event {
    if lease.claim {
        let message =
            format!("Granted {} to {}, which had it already", port(lease), describe(lease));
        return Event::new(REUSE, "reuse", message).about(lease);
    }
    let message = format!("Shared {} of {}", port(lease), describe(lease));
    Event::new(SINGLETON_REUSE, "singleton_reuse", message).about(lease)
}

fn leave(lease: &Lease, reason: EndReason) -> Event {
    let who = format!("One holder of {} of {} is gone", port(lease), describe(lease));
    let event = if lease.claim {
        Event::new(LEAVE, "leave", format!("{who}, and the port stays leased"))
    } else {
        let message = format!("{who}, and the others still hold it");
        Event::new(SINGLETON_LEAVE, "singleton_leave", message)
    };
    event.about(lease).with("STYXY_REASON", Some(reason.as_str()))
}

fn auto_allocate(
    service_type: &ServiceTypeName,
    range: PortRange,
    ranges: &[PortRange],
    placement: Placement,
    asker: &Asker,
) -> Event {
    // A further range follows the first, or extends it.
    let (range, message) = if ranges.first() == Some(&range) {
        let all = list(ranges);
        let message = format!("The new service type {service_type} got the ports {all}");
        (all, message)
    } else {
        let message =
            format!("The service type {service_type} was full and also got the ports {range}");
        (range.to_string(), message)
    };
    Event::new(AUTO_ALLOCATE, "auto_allocate", message)
        .with("STYXY_SERVICE_TYPE", Some(service_type.as_str()))
        .with("STYXY_RANGE", Some(&range))
        .with("STYXY_PLACEMENT", Some(placement.as_str()))
        .with("STYXY_INSTANCE_ID", asker.instance_id.as_ref().map(|id| id.as_str()))
        .with("STYXY_PROJECT_PATH", asker.project_path.as_ref().map(|path| path.as_str()))
}

fn undo_auto_allocation(
    service_type: &ServiceTypeName,
    ranges: &[PortRange],
    placement: Placement,
) -> Event {
    let ranges = list(ranges);
    let message = format!("The service type {service_type} was removed; its ports were {ranges}");
    Event::new(UNDO_AUTO_ALLOCATION, "undo_auto_allocation", message)
        .with("STYXY_SERVICE_TYPE", Some(service_type.as_str()))
        .with("STYXY_RANGE", Some(&ranges))
        .with("STYXY_PLACEMENT", Some(placement.as_str()))
}

fn list(ranges: &[PortRange]) -> String {
    let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
    ranges.join(", ")
}

fn release(lease: &Lease, reason: EndReason) -> Event {
    let message = format!("Released {} of {}", port(lease), describe(lease));
    Event::new(RELEASE, "release", message).about(lease).with("STYXY_REASON", Some(reason.as_str()))
}

fn expire(lease: &Lease, reason: EndReason) -> Event {
    let why = match reason {
        EndReason::OwnerGone => "its owner is gone",
        EndReason::InstanceGone => "its instance is gone",
        EndReason::Ttl => "its time limit is reached",
        EndReason::Unused => "nothing has listened on it for a long time",
        EndReason::ListenerGone => "its owner and its listener are gone",
        EndReason::NewBoot => "the machine was rebooted",
        EndReason::NotDurable => "the grant could not be stored",
        EndReason::NotDelivered => "the caller was gone before the answer",
        EndReason::Taken => {
            "another user's program or service took the port while no service guarded it"
        }
        EndReason::Yielded => "nobody had used it, and another service needed a port",
        EndReason::Released => "it was released",
        EndReason::Merged => "another registry of this user had leased the port, too",
    };
    let message = format!("The lease of {} of {} ended: {why}", port(lease), describe(lease));
    Event::new(EXPIRE, "expire", message).about(lease).with("STYXY_REASON", Some(reason.as_str()))
}

fn orphan(lease: &Lease) -> Event {
    let message = format!(
        "The owner of {} of {} is gone, but something still listens on it",
        port(lease),
        describe(lease)
    );
    Event::new(ORPHAN, "orphan", message).about(lease)
}

fn renew(lease: &Lease) -> Event {
    let message = format!("Renewed {} of {}", port(lease), describe(lease));
    Event::new(RENEW, "renew", message).about(lease)
}

fn claim(lease: &Lease) -> Event {
    let (port, service) = (port(lease), describe(lease));
    let message = if lease.used == Use::Idle {
        format!("Nobody has used {port} of {service} yet, so it is not guarded any longer")
    } else {
        format!("A server of {service} uses {port}")
    };
    Event::new(CLAIM, "claim", message).about(lease)
}

fn hold(lease: &Lease) -> Event {
    let (port, service) = (port(lease), describe(lease));
    let message = if lease.hold == Hold::Client {
        format!("The owner of {port} of {service} keeps it bound itself, so it is not guarded")
    } else {
        format!("The {port} of {service} is guarded again")
    };
    Event::new(HOLD, "hold", message).about(lease)
}

fn forget(key: &MemoryKey, port: Port) -> Event {
    let message =
        format!("Forgot that {} had {} port {port}", key.project_path, key.protocol.in_words());
    let mut event = Event::new(FORGET, "forget", message)
        .with("STYXY_PROTOCOL", Some(key.protocol.as_str()))
        .with("STYXY_SERVICE_TYPE", Some(key.service_type.as_str()))
        .with("STYXY_SERVICE_NAME", key.service_name.as_ref().map(|name| name.as_str()))
        .with("STYXY_PROJECT_PATH", Some(key.project_path.as_str()))
        .with("STYXY_PACKAGE_PATH", key.package_path.as_ref().map(|path| path.as_str()));
    event.fields.put("STYXY_PORT", port.get());
    event
}

fn register_instance(instance: &Instance) -> Event {
    let message = format!("The instance {} was registered", instance.instance_id);
    Event::new(REGISTER_INSTANCE, "register_instance", message)
        .with("STYXY_INSTANCE_ID", Some(instance.instance_id.as_str()))
        .with("STYXY_OWNER", Some(&instance.owner.to_string()))
}

fn end_instance(instance: &Instance, reason: &str) -> Event {
    let message = format!("The instance {} is gone: {reason}", instance.instance_id);
    Event::new(END_INSTANCE, "end_instance", message)
        .with("STYXY_INSTANCE_ID", Some(instance.instance_id.as_str()))
        .with("STYXY_OWNER", Some(&instance.owner.to_string()))
        .with("STYXY_REASON", Some(reason))
}

fn deny(denial: &Denial) -> Event {
    let Denial { service_type, reason, count, .. } = denial;
    let times = if *count > 1 { format!(", {count} times in a minute") } else { String::new() };
    let message = match service_type {
        Some(service_type) => format!("Refused a port to {service_type}: {reason}{times}"),
        None => format!("Refused a request over TCP: {reason}{times}"),
    };
    let mut event = Event::new(DENY, "deny", message)
        .with("STYXY_SERVICE_TYPE", service_type.as_ref().map(|name| name.as_str()))
        .with("STYXY_SERVICE_NAME", denial.service_name.as_ref().map(|name| name.as_str()))
        .with("STYXY_INSTANCE_ID", denial.instance_id.as_ref().map(|id| id.as_str()))
        .with("STYXY_PROJECT_PATH", denial.project_path.as_ref().map(|path| path.as_str()))
        .with("STYXY_PROTOCOL", Some(denial.protocol.as_str()))
        .with("STYXY_REASON", Some(&denial.reason));
    event.fields.put_some("STYXY_PORT", denial.port.map(|port| port.get()));
    event.fields.put_some("STYXY_COUNT", (*count > 1).then_some(*count));
    event
}

fn set_token() -> Event {
    Event::new(SET_TOKEN, "set_token", "The token for HTTP over TCP was set".to_owned())
}

fn config_reload(
    added: &[TypeRanges],
    changed: &[TypeRanges],
    removed: &[ServiceTypeName],
) -> Event {
    let types = |types: &[TypeRanges]| {
        let types = types.iter();
        types.map(|t| format!("{} {}", t.service_type, list(&t.ranges))).collect::<Vec<_>>()
    };
    let removed = removed.iter().map(ToString::to_string).collect();
    let mut message = "The configuration changed".to_owned();
    let mut ranges = Vec::new();
    for (what, types) in [
        ("new service types", types(added)),
        ("other ranges", types(changed)),
        ("removed service types", removed),
    ] {
        if !types.is_empty() {
            message = format!("{message}; {what}: {}", types.join(", "));
            ranges.extend(types);
        }
    }
    let ranges = (!ranges.is_empty()).then(|| ranges.join(", "));
    Event::new(CONFIG_RELOAD, "config_reload", message).with("STYXY_RANGE", ranges.as_deref())
}

fn config_error(reason: &str) -> Event {
    let message =
        format!("The configuration has errors, and the last good one stays in force: {reason}");
    Event::new(CONFIG_ERROR, "config_error", message).warning().with("STYXY_REASON", Some(reason))
}

fn recover(reason: &str) -> Event {
    let message = format!("Stored state was damaged: {reason}");
    Event::new(RECOVER, "recover", message).warning().with("STYXY_REASON", Some(reason))
}

fn merge(taken: &Merge) -> Event {
    let named: Vec<_> = taken.leases.iter().take(MOST_NAMED).map(|lease| port(lease)).collect();
    let more = if taken.leases.len() > MOST_NAMED { ", …" } else { "" };
    let leases = match taken.leases.len() {
        0 => "no lease".to_owned(),
        count => format!("{} ({}{more})", counted(count as u64, "lease"), named.join(", ")),
    };
    let remembered = counted(taken.remembered.len() as u64, "remembered port");
    let message = match &taken.state_id {
        Some(_) => format!("Merged another registry of this user: {leases} and {remembered}"),
        None => format!("Copied {remembered} from other machines or networks of this user"),
    };
    Event::new(MERGE, "merge", message)
}

fn port(lease: &Lease) -> String {
    format!("{} port {}", lease.protocol.in_words(), lease.port)
}

fn describe(lease: &Lease) -> String {
    let mut words = lease.service_type.to_string();
    if let Some(name) = lease.name() {
        words = format!("{words} {name}");
    }
    if let Some(project) = &lease.project_path {
        words = format!("{words} of {project}");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lease::LeaseId, port::Protocol};

    #[test]
    fn every_kind_of_event_is_explained_in_the_catalog() {
        let catalog = include_str!("../../systemd/styxy.catalog");
        let ids = [
            ALLOCATE,
            REMAP,
            REUSE,
            LEAVE,
            SINGLETON_REUSE,
            SINGLETON_LEAVE,
            AUTO_ALLOCATE,
            UNDO_AUTO_ALLOCATION,
            RELEASE,
            EXPIRE,
            ORPHAN,
            RENEW,
            CLAIM,
            HOLD,
            FORGET,
            REGISTER_INSTANCE,
            END_INSTANCE,
            DENY,
            CONFIG_RELOAD,
            CONFIG_ERROR,
            RECOVER,
            MERGE,
            SET_TOKEN,
        ];
        for id in ids {
            assert!(catalog.contains(&format!("-- {id}\n")), "{id}");
        }
        assert_eq!(catalog.matches("\n-- ").count(), ids.len(), "nothing else is explained");
    }

    #[test]
    fn a_mapping_has_an_action_of_its_own_and_keeps_the_others() {
        let mapping = Lease {
            asked: Port::new(3001),
            project_path: Some("/home/dev/shop-b".parse().unwrap()),
            ..Lease::new(
                LeaseId::from_number(1),
                Port::new(21_003).unwrap(),
                "remap".parse().unwrap(),
            )
        };
        let granted = allocate(&mapping, Remembers::Port);
        assert_eq!(granted.message, "Port 3001 of /home/dev/shop-b is really 21003");
        let moved = allocate(&mapping, Remembers::Moved { from: Port::MAX });
        assert_eq!(
            moved.message,
            "Port 3001 of /home/dev/shop-b is really 21003, which is remembered from now on instead of 65535"
        );
        let field = |event: &Event, key| serde_json::json!(event.fields)[key].clone();
        for (event, action) in [
            (granted, "remap"),
            (moved, "remap"),
            (reuse(&mapping), "singleton_reuse"),
            (leave(&mapping, EndReason::OwnerGone), "singleton_leave"),
            (expire(&mapping, EndReason::OwnerGone), "expire"),
        ] {
            assert_eq!(field(&event, "STYXY_ACTION"), action);
            assert_eq!(field(&event, "STYXY_ASKED"), 3001, "{action}");
        }
        let other = Lease { asked: None, ..mapping };
        let granted = allocate(&other, Remembers::Port);
        assert_eq!(field(&granted, "STYXY_ACTION"), "allocate");
        assert!(field(&granted, "STYXY_ASKED").is_null());
    }

    #[test]
    fn every_change_is_an_action_that_can_be_asked_for() {
        let unknown = serde_json::from_str::<Change>(r#"{"action": "?"}"#).unwrap_err().to_string();
        let changes: Vec<_> = unknown.split('`').skip(3).step_by(2).collect();
        // Sharing and leaving a lease are one change each, but one action for claims and another for singletons; and so is
        // a grant, but one action for mappings and another for all others.
        let is_change = |action: &&str| !["reuse", "leave", "remap"].contains(action);
        let actions: Vec<_> = ACTIONS.into_iter().filter(is_change).collect();
        assert_eq!(changes, actions, "{unknown}");
        let denial = Denial {
            service_type: "dev".parse().ok(),
            service_name: None,
            instance_id: None,
            project_path: None,
            port: None,
            protocol: Protocol::Tcp,
            reason: "PortInUse".to_owned(),
            count: 1,
        };
        let action = deny(&denial).fields.get("STYXY_ACTION").cloned();
        assert!(matches!(action, Some(crate::value::Value::Str(action)) if action == "deny"));
    }
}
