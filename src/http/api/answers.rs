//! The answers, by the names of their operations. Where styxy 1.x had other names, an answer has both.

#![expect(dead_code, reason = "only the schemas are used")]
#![allow(
    clippy::doc_markdown,
    clippy::struct_field_names,
    reason = "they are the words of the document"
)]

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::words::*;
use crate::{
    answers::{self, Listed},
    port::Port,
};

/// Every refusal.
#[derive(JsonSchema)]
pub(super) struct Refused {
    success: False,
    /// Names the kind of refusal
    code: String,
    /// What is wrong, and why
    error: String,
    /// Remedies, the best first
    suggestions: Vec<String>,
    /// Of `POST /allocate` only, for clients of styxy 1.x
    context: Option<Context>,
}

#[derive(JsonSchema)]
pub(super) struct Context {
    /// The remedies once more
    suggestions: Vec<String>,
    /// There is none
    help_url: Option<String>,
    /// VALIDATION, CONFIGURATION, RESOURCE or SYSTEM
    category: String,
    /// Always ERROR
    severity: String,
}

#[derive(JsonSchema)]
pub(super) struct Done {
    success: True,
}

#[derive(JsonSchema)]
pub(super) struct Granted {
    success: True,
    #[serde(flatten)]
    granted: answers::Granted,
    /// Missing where nothing was leased
    lock_id: Option<Id>,
    message: String,
    /// The range of an automatic type
    allocated_range: Option<[Port; 2]>,
    chunk_size: Option<u32>,
    placement: Option<String>,
    /// Of a lease that was there
    #[serde(rename = "lockId")]
    another_lock_id: Option<Id>,
    #[serde(rename = "existingInstanceId")]
    existing_instance_id: Option<String>,
    #[serde(rename = "existingPid")]
    existing_pid: Option<u32>,
    /// Milliseconds since 1970
    #[serde(rename = "allocatedAt")]
    allocated_at: Option<u64>,
}

#[derive(JsonSchema)]
pub(super) struct Released {
    success: True,
    port: Port,
    lease_id: Id,
    lock_id: Id,
    message: String,
}

#[derive(JsonSchema)]
pub(super) struct Renewed {
    success: True,
    #[serde(flatten)]
    lease: answers::Lease,
}

#[derive(JsonSchema)]
pub(super) struct Leases {
    success: True,
    leases: Vec<Listed>,
}

#[derive(JsonSchema)]
pub(super) struct LookedUp {
    success: True,
    #[serde(flatten)]
    lease: Listed,
}

#[derive(JsonSchema)]
pub(super) struct ReleasedSome {
    success: True,
    released: u32,
}

#[derive(JsonSchema)]
pub(super) struct CleanedUp {
    success: True,
    leases: Vec<answers::Lease>,
    cleaned: u32,
    message: String,
}

#[derive(JsonSchema)]
pub(super) struct AllRemembered {
    success: True,
    remembered: Vec<Remembered>,
}

#[derive(JsonSchema)]
struct Remembered {
    port: Port,
    protocol: ProtocolName,
    /// The port that is asked for, of a mapping
    asked: Option<Port>,
    service_type: TypeName,
    service_name: Option<Name>,
    project_path: String,
    package_path: Option<String>,
    singleton_key: Option<Name>,
    count: u32,
    slot: u16,
    /// The change that granted it
    seq: u64,
    program: Option<Name>,
    last_used: Option<Time>,
    claims: Option<String>,
}

#[derive(JsonSchema)]
pub(super) struct Forgotten {
    success: True,
    forgotten: u32,
}

#[derive(JsonSchema)]
pub(super) struct Instances {
    success: True,
    instances: Vec<Instance>,
}

#[derive(JsonSchema)]
struct Instance {
    instance_id: InstanceName,
    pid: Option<u32>,
    heartbeat: Option<u64>,
    since: Time,
}

#[derive(JsonSchema)]
pub(super) struct InstanceRegistered {
    success: True,
    #[serde(flatten)]
    instance: Instance,
}

/// What clients of 1.x read of a lease.
#[derive(JsonSchema)]
struct Allocation {
    #[serde(flatten)]
    lease: Listed,
    lock_id: Id,
    #[serde(rename = "lockId")]
    another_lock_id: Id,
    #[serde(rename = "serviceType")]
    another_service_type: TypeName,
    #[serde(rename = "serviceName")]
    another_service_name: String,
    #[serde(rename = "instanceId")]
    another_instance_id: String,
    #[serde(rename = "projectPath")]
    another_project_path: Option<String>,
    process_id: Option<u32>,
    allocated_at: Time,
}

#[derive(JsonSchema)]
pub(super) struct Allocations {
    success: True,
    allocations: Vec<Allocation>,
}

#[derive(JsonSchema)]
pub(super) struct Checked {
    success: True,
    port: Port,
    protocol: ProtocolName,
    available: bool,
    /// free, leased, in_use, excluded, …
    reason: String,
    /// The same as a sentence
    message: String,
    /// listener, bound (without listening), or connection (an outgoing one)
    in_use_by: Option<String>,
    /// Left out where it cannot be found out
    listening: Option<bool>,
    lease: Option<Listed>,
    allocated_to: Option<Allocation>,
    system_usage: Option<Usage>,
}

/// What listens on a port.
#[derive(JsonSchema)]
struct Usage {
    port: Port,
    protocol: ProtocolName,
    state: String,
    local_address: String,
    process: Process,
    tool: String,
}

/// Known only if it owns the lease of the port, or is the service itself.
#[derive(JsonSchema)]
struct Process {
    name: Option<String>,
    pid: Option<u32>,
    user: Option<String>,
}

#[derive(JsonSchema)]
pub(super) struct Suggestions {
    success: True,
    service_type: TypeName,
    suggestions: Vec<Port>,
    count: u32,
    message: String,
    details: Vec<Suggestion>,
}

#[derive(JsonSchema)]
struct Suggestion {
    port: Port,
    /// Why it is the next
    reason: String,
    /// The same as a sentence
    message: String,
    /// Who has it already, if it runs once
    held: Option<String>,
}

#[derive(JsonSchema)]
pub(super) struct Events {
    success: True,
    /// Whether there is anything to read events from
    enabled: bool,
    message: Option<String>,
    /// The oldest first
    recent_events: Vec<Event>,
    /// Whether there may be older ones
    truncated: bool,
}

/// The fields of the journal without their prefix, in small letters.
#[derive(JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
struct Event {
    time: Time,
    action: Option<String>,
    message: Option<String>,
    seq: Option<u64>,
}

/// Without a token, over TCP, it has only success and status.
#[derive(JsonSchema)]
pub(super) struct Status {
    success: True,
    /// running
    status: String,
    version: Option<String>,
    pid: Option<u32>,
    transport: Option<String>,
    on_bus: Option<bool>,
    leases: Option<u32>,
    guards: Option<u32>,
    guards_limit: Option<u32>,
    remembered_ports: Option<u32>,
    service_types: Option<u32>,
    automatic_types: Option<u32>,
    auto_allocation: Option<bool>,
    /// Ports in the ranges of all types
    ports: Option<u32>,
    leased: Option<u32>,
    listening: Option<u32>,
    free: Option<u32>,
    /// The number of the last change
    seq: Option<u64>,
    audit_pending: Option<u64>,
    audit_confirmed: Option<bool>,
    audit_note: Option<String>,
    audit_remedy: Option<String>,
    /// Why nothing can be stored
    state_problem: Option<String>,
    config_problems: Option<Vec<String>>,
    config_seen: Option<String>,
    config_shown: Option<Anything>,
    idle_exit_seconds: Option<u64>,
    /// The first digits of the SHA-256 of the token
    token: Option<String>,
    private: Option<bool>,
    sandbox: Option<Vec<String>>,
    /// full, partial or none
    landlock: Option<String>,
    landlock_note: Option<String>,
    /// Seconds
    uptime: Option<f64>,
    allocations: Option<u32>,
    instances: Option<u32>,
}

#[derive(JsonSchema)]
pub(super) struct Health {
    /// healthy or unhealthy
    status: String,
    timestamp: Time,
    /// Seconds
    uptime: f64,
    version: String,
    system: BTreeMap<String, Anything>,
    services: BTreeMap<String, Anything>,
    config: BTreeMap<String, Anything>,
    warnings: Vec<String>,
}

#[derive(JsonSchema)]
pub(super) struct Counted {
    success: True,
    counters: BTreeMap<String, f64>,
    gauges: BTreeMap<String, Gauge>,
    histograms: BTreeMap<String, Histogram>,
    system: BTreeMap<String, Anything>,
}

#[derive(JsonSchema)]
struct Gauge {
    value: f64,
}

#[derive(JsonSchema)]
struct Histogram {
    count: u64,
    /// Seconds
    sum: f64,
    /// How many took at most that many seconds, and longer than the bound before; inf: longer than all bounds
    buckets: BTreeMap<String, u64>,
}

#[derive(JsonSchema)]
pub(super) struct Types {
    success: True,
    service_types: Vec<Type>,
}

#[derive(JsonSchema)]
struct Type {
    service_type: TypeName,
    ranges: Vec<String>,
    preferred_ports: Vec<Port>,
    /// multi, or single: it runs once, for all programs of the user
    instance_behavior: String,
    /// all or named
    claims: String,
    hold: String,
    protocol: ProtocolName,
    wait_ms: u64,
    description: String,
    examples: Vec<String>,
    automatic: bool,
    placement: Option<String>,
    /// Where its range is from
    made_by: String,
    ports: u32,
    leased: u32,
    listening: Option<u32>,
    free: Option<u32>,
}

#[derive(JsonSchema)]
pub(super) struct Configuration {
    success: True,
    /// Of styxy_config(5)
    configuration: BTreeMap<String, Anything>,
    service_types: BTreeMap<String, ConfiguredType>,
}

#[derive(JsonSchema)]
struct ConfiguredType {
    description: Option<Anything>,
    examples: Anything,
    instance_behavior: Option<Anything>,
    preferred_ports: Anything,
    range: Option<Anything>,
}

#[derive(JsonSchema)]
pub(super) struct AutoAllocation {
    success: True,
    enabled: bool,
}

#[derive(JsonSchema)]
pub(super) struct Backups {
    success: True,
    backups: Vec<Backup>,
}

#[derive(JsonSchema)]
struct Backup {
    version: u32,
    /// When it was replaced
    until: Time,
    /// The automatic types, each with its ranges
    service_types: Vec<String>,
}

#[derive(JsonSchema)]
pub(super) struct Reloaded {
    success: True,
    problems: Vec<String>,
}

#[derive(JsonSchema)]
pub(super) struct Taken {
    success: True,
    problems: Vec<String>,
    again: Option<bool>,
    elsewhere: Option<String>,
}

#[derive(JsonSchema)]
pub(super) struct PageOpened {
    success: True,
    /// Good once, for a minute
    secret: String,
}

#[derive(JsonSchema)]
pub(super) struct SessionBegun {
    success: True,
    /// A token that is good until the service ends
    session: String,
}

#[derive(JsonSchema)]
pub(super) struct Restarting {
    success: True,
    restarting: bool,
}

#[derive(JsonSchema)]
pub(super) struct Scanned {
    success: True,
    scan_range: String,
    ports_in_use: Vec<InUse>,
}

#[derive(JsonSchema)]
struct InUse {
    port: Port,
    allocated_to: Option<Allocation>,
    system_usage: Option<Usage>,
}

#[derive(JsonSchema)]
pub(super) struct AllRegistered {
    success: True,
    instances: Vec<Registered>,
}

#[derive(JsonSchema)]
struct Registered {
    instance_id: InstanceName,
    working_directory: Option<String>,
    registered_at: Time,
    last_heartbeat: Time,
    active_allocations: Vec<Port>,
    metadata: BTreeMap<String, Anything>,
}

#[derive(JsonSchema)]
pub(super) struct WasRegistered {
    success: True,
    instance_id: InstanceName,
    message: String,
}

#[derive(JsonSchema)]
pub(super) struct Heard {
    success: True,
    instance_id: InstanceName,
    last_heartbeat: Time,
}

#[derive(JsonSchema)]
pub(super) struct Observed {
    success: True,
    port: Port,
    bound: bool,
    observation: Option<Observation>,
    message: Option<String>,
}

#[derive(JsonSchema)]
struct Observation {
    port: Port,
    pid: Option<u32>,
    process: String,
    command: String,
    service_type: String,
    instance_id: String,
    /// Milliseconds since 1970
    timestamp: u64,
}

#[derive(JsonSchema)]
pub(super) struct AllObserved {
    success: True,
    total: u32,
    observations: Vec<Observation>,
    stats: Stats,
}

#[derive(JsonSchema)]
struct Stats {
    total_ports: u32,
    by_service_type: BTreeMap<String, u32>,
    by_instance: BTreeMap<String, u32>,
    active_instances: u32,
}

#[derive(JsonSchema)]
pub(super) struct ObservationStats {
    success: True,
    stats: Stats,
    timestamp: Time,
}

#[derive(JsonSchema)]
pub(super) struct CircuitBreakers {
    success: True,
    /// There are none
    circuit_breakers: BTreeMap<String, Anything>,
}

/// Of OpenAPI 3.1.
#[derive(JsonSchema)]
pub(super) struct Document {
    openapi: String,
    info: BTreeMap<String, Anything>,
    servers: Vec<BTreeMap<String, Anything>>,
    security: Vec<BTreeMap<String, Anything>>,
    paths: BTreeMap<String, Anything>,
    components: BTreeMap<String, Anything>,
}
