//! The options of requests, by the names of their operations.

#![expect(dead_code, reason = "only the schemas are used")]
#![allow(
    clippy::doc_markdown,
    clippy::struct_field_names,
    reason = "they are the words of the document"
)]

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::words::*;
use crate::port::Port;

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Allocate {
    service_type: TypeName,
    /// What the port is for; the same name gets the same port again
    service_name: Option<Name>,
    /// The program that is about to be started on it
    program: Option<Name>,
    instance_id: Option<InstanceName>,
    /// The checkout that the port is for
    project_path: Option<Folder>,
    /// The package in it: a folder inside of project_path
    package_path: Option<Folder>,
    /// The port that the program asks for: the answer is its real port in this project. Takes project_path
    asked: Option<Port>,
    /// Whether the real port may be the same. Default: private, never
    remap: Option<RemapName>,
    /// Try this port first
    port: Option<Port>,
    /// The name that port had in styxy 1.x
    preferred_port: Option<PreferredPort>,
    /// Try first the port at this offset in the type's preferred ones
    template: Option<Template>,
    /// Fail if that port cannot be had, instead of taking another; takes port or template
    strict: Option<bool>,
    /// Default: as the type has it
    protocol: Option<ProtocolName>,
    /// So many consecutive ports, all or none
    count: Option<Count>,
    /// How the port is kept until it is bound. Default: as the type has it; a guard is for TCP
    hold: Option<HoldName>,
    /// End the lease after this time, even if its owner lives
    ttl: Option<Ttl>,
    /// Whose end ends the lease; process takes pid, unit takes unit
    owner: Option<OwnerKind>,
    /// The process that is the owner
    pid: Option<Pid>,
    /// The unit that is the owner
    unit: Option<Unit>,
    /// Distinguishes several single-instance services of one type
    singleton_key: Option<Name>,
    /// Create a new type even if its name looks like a typo
    create: Option<bool>,
    /// Answer the lease that this service of this project has, if it has one
    claim: Option<bool>,
    /// Use the claim of this service, unless it is in use
    use_claim: Option<bool>,
    /// The lease of the `styxy run` around the caller
    within: Option<Id>,
    /// The lease is for the user's server that listens on the port already; takes port and strict
    adopt: Option<bool>,
    /// Only answer what would be granted
    dry_run: Option<bool>,
    /// The id of the new lease, for a client that may have to ask again
    lease_id: Option<Id>,
    /// The fingerprint of the configuration that the caller sees
    config_seen: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Renew {
    /// The new time limit. Default: the one that the lease has
    ttl: Option<Ttl>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct SetHold {
    /// client: the owner of the lease, by a socket of its own; guard: the service again
    hold: Keeper,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Filter {
    lease_id: Option<Id>,
    port: Option<Port>,
    /// The port that is asked for, of mappings
    asked: Option<Port>,
    protocol: Option<ProtocolName>,
    service_type: Option<TypeName>,
    service_name: Option<Name>,
    instance_id: Option<InstanceName>,
    project_path: Option<Folder>,
    /// The id that the leases of a block of ports share
    block_id: Option<Id>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct List {
    #[serde(flatten)]
    filter: Filter,
    /// At most so many, in the order of their ports; the leases of one port stay together
    #[schemars(range(min = 1))]
    limit: Option<u32>,
    /// Only leases of higher ports
    after: Option<Port>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Release {
    #[serde(flatten)]
    filter: Filter,
    /// not_delivered: the client got no answer, and nothing is to be remembered of the grant
    #[schemars(extend("enum" = ["released", "not_delivered"]))]
    reason: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct LookUp {
    project_path: Folder,
    package_path: Option<Folder>,
    /// Without it or service_name nothing is meant
    service_type: Option<TypeName>,
    service_name: Option<Name>,
    /// Only that very service, and no other one of the project in its place
    strict: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct CleanUp {
    /// Only leases that are older, in seconds. Default: an hour
    older_than: Option<u64>,
    /// Only answer which ones would be released
    dry_run: Option<bool>,
    /// The same as older_than 0
    force: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct OfMemory {
    port: Option<Port>,
    /// The port that is asked for, of mappings
    asked: Option<Port>,
    protocol: Option<ProtocolName>,
    service_type: Option<TypeName>,
    service_name: Option<Name>,
    project_path: Option<Folder>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct ListRemembered {
    #[serde(flatten)]
    filter: OfMemory,
    #[schemars(range(min = 1))]
    limit: Option<u32>,
    /// Only those that were granted before that change
    #[schemars(range(min = 1))]
    before: Option<u64>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct RegisterInstance {
    /// It is gone when no heartbeat comes for this time, in seconds
    #[schemars(range(min = 1, max = 86_400))]
    heartbeat: Option<u64>,
    /// It is gone with this process
    pid: Option<Pid>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Check {
    /// Default, also if it is empty: tcp
    #[schemars(extend("enum" = ["", "tcp", "udp", "both"]))]
    protocol: Option<String>,
}

/// What a request for the port would say, too
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Suggest {
    /// How many. Default: 5
    count: Option<Count>,
    service_name: Option<Name>,
    project_path: Option<Folder>,
    package_path: Option<Folder>,
    instance_id: Option<InstanceName>,
    protocol: Option<ProtocolName>,
    port: Option<Port>,
    template: Option<Template>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Audit {
    /// As often as needed
    action: Option<Vec<String>>,
    service_type: Option<Vec<TypeName>>,
    port: Option<Vec<Port>>,
    project_path: Option<Vec<Folder>>,
    instance_id: Option<Vec<InstanceName>>,
    /// A time as journalctl(1) takes it
    since: Option<String>,
    until: Option<String>,
    /// Default: 200
    #[schemars(range(min = 0, max = 10_000))]
    limit: Option<u64>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Metrics {
    /// Default: by the header Accept, else json
    #[schemars(extend("enum" = ["json", "prometheus", "openmetrics"]))]
    format: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Undo {
    /// Release the leases of the type, too
    force: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Configuration {
    /// With the file that each value is from
    origins: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct SetAutoAllocation {
    enabled: bool,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct RestoreBackup {
    /// As listed
    version: u32,
    /// Release the leases of types that are gone then
    force: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct SetToken {
    sha256: Sha256,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct OpenPage {
    /// The socket for TCP was started for pages only
    temporary: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct BeginSession {
    secret: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Scan {
    start: Option<Port>,
    end: Option<Port>,
}

/// What an instance says of itself.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Registration {
    instance_id: Option<InstanceName>,
    /// Of a process that has no name: it is gone with it. Ignored beside a name
    pid: Option<u32>,
    working_directory: Option<Folder>,
    /// At most 2,000 bytes
    metadata: Option<BTreeMap<String, Anything>>,
    /// Accepted and ignored
    service_type: Option<String>,
    port: Option<u16>,
}
