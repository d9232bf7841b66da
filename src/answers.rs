//! The types of answers, from which their schemas are made: those of the tools of MCP and of the `OpenAPI` document.
//! Required fields are plain, the others are optional; a later version may add fields.

#![expect(dead_code, reason = "only the schemas are used")]
#![allow(
    clippy::doc_markdown,
    clippy::struct_field_names,
    reason = "they are the words of the answers"
)]

use schemars::JsonSchema;

use crate::port::Port;

#[derive(JsonSchema)]
pub(crate) struct Lease {
    /// Missing where nothing was leased
    lease_id: Option<String>,
    port: Port,
    /// tcp, udp or both
    protocol: String,
    /// The port that programs of the project ask for, if port is the real one that they get instead
    asked: Option<Port>,
    /// How it is mapped: private, or conflict if it may be the real one itself
    remap: Option<String>,
    service_type: String,
    service_name: Option<String>,
    /// The same name, if it is that of a program that `styxy run` has started
    program: Option<String>,
    instance_id: Option<String>,
    project_path: Option<String>,
    /// The package in it, if it has several
    package_path: Option<String>,
    /// 2 for a second lease of the service at one time, and so on; 0 for one of which nothing is remembered
    slot: Option<u16>,
    /// Whose exit ends the lease: none, process, unit or connection
    owner: String,
    /// The process that is the owner
    pid: Option<u32>,
    /// The unit that is the owner
    unit: Option<String>,
    /// Whether other requests for the same service get this lease
    claim: Option<bool>,
    /// How the port is kept until it is bound: guard, none, socket, or client if the owner itself keeps it bound
    hold: String,
    /// The time limit in seconds
    ttl: Option<u64>,
    /// The id that the leases of a block of ports share
    block_id: Option<String>,
    singleton_key: Option<String>,
    /// How many callers share it, if several do
    holders: Option<u32>,
    since: String,
}

#[derive(JsonSchema)]
pub(crate) struct Granted {
    #[serde(flatten)]
    lease: Lease,
    /// All ports, if several were asked for
    ports: Option<Vec<Port>>,
    lease_ids: Option<Vec<String>>,
    /// Something that you should know
    note: Option<String>,
    /// single: it runs once, for all programs of the user
    instance_behavior: Option<String>,
    /// Identifies you among those that share the lease
    holder_id: Option<String>,
    /// The lease existed already: if the service runs once, connect to it instead of starting another
    existing: Option<bool>,
    /// Who holds it
    held: Option<String>,
    /// The port that this service had before, and no longer has
    moved_from: Option<Port>,
    /// The type is new, and got port_range
    auto_allocated: Option<bool>,
    port_range: Option<[Port; 2]>,
    /// Nothing was leased
    dry_run: Option<bool>,
}

#[derive(JsonSchema)]
pub(crate) struct Listed {
    #[serde(flatten)]
    lease: Lease,
    /// The name of the owner's command
    comm: Option<String>,
    /// reserved; claimed: asked for and not used yet; listening; or orphaned: the owner is gone, and something still listens
    state: String,
}
