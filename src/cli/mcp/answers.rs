//! The types of the answers, from which their schemas are made. Required fields are plain, the others are
//! optional; a later version may add fields.

#![expect(dead_code, reason = "only the schemas are used")]

use schemars::JsonSchema;

pub(super) use crate::answers::{Granted, Listed};
use crate::port::Port;

#[derive(JsonSchema)]
pub(super) struct Released {
    lease_id: String,
    port: Port,
}

#[derive(JsonSchema)]
pub(super) struct Leases {
    leases: Vec<Listed>,
}

#[derive(JsonSchema)]
pub(super) struct Checked {
    port: Port,
    /// tcp, udp or both
    protocol: String,
    available: bool,
    /// free, leased, in_use, excluded, …
    reason: String,
    /// The same as a sentence
    message: String,
    /// If the reason is in_use: listener, bound (without listening), or connection (an outgoing one)
    in_use_by: Option<String>,
    /// Whether something listens on it; left out where that cannot be found out
    listening: Option<bool>,
    lease: Option<Listed>,
    /// The mappings of projects whose programs ask for this port: each lease's own port is the real one
    asked_by: Option<Vec<Listed>>,
    /// The programs that listen; null if they cannot be seen
    listeners: Option<Vec<Listener>>,
    /// The programs that have the port without listening, if nothing listens on it
    holders: Option<Vec<Listener>>,
    /// Where its owner listens instead, if nothing listens on a leased port
    elsewhere: Option<Vec<Listener>>,
}

#[derive(JsonSchema)]
struct Listener {
    port: Port,
    /// tcp, udp or both
    protocol: String,
    addresses: Vec<String>,
    uid: u32,
    user: String,
    pid: Option<u32>,
    command: Option<String>,
    command_line: Option<String>,
    folder: Option<String>,
    container: Option<Container>,
}

#[derive(JsonSchema)]
struct Container {
    runtime: String,
    id: Option<String>,
    address: Option<String>,
}

#[derive(JsonSchema)]
pub(super) struct Suggestions {
    suggestions: Vec<Suggestion>,
    /// Something that you should know
    note: Option<String>,
}

#[derive(JsonSchema)]
struct Suggestion {
    /// Null if there is none
    port: Option<Port>,
    /// Why it is the next
    reason: Option<String>,
    /// The same as a sentence
    message: Option<String>,
    /// Who has it already, if it runs once
    held: Option<String>,
    /// What the project needs, if no type was asked for
    service_type: Option<String>,
    service_name: Option<String>,
    project_path: Option<String>,
    /// The folder of its package, if the project has several
    package_path: Option<String>,
    /// tcp or udp
    protocol: Option<String>,
    /// The folder in which it is started, from the top of the project
    folder: Option<String>,
    /// How many consecutive ports it wants
    count: Option<u16>,
    /// The port that the project's files name
    wants: Option<Port>,
    /// The port that its program takes if it is told none
    usual: Option<Port>,
    /// The file that says so, and what in it; or what ran here
    because: Option<String>,
    /// Null if no file says so, and it only ran here before
    file: Option<String>,
    /// When it was last in use, if within 30 days
    last_seen: Option<String>,
    /// The service that was started before it each time, such as dev:web@apps/web
    follows: Option<String>,
    line: Option<usize>,
    /// The process of the Procfile or the styxy.json that starts it
    process: Option<String>,
    /// What starts it
    command: Option<String>,
    /// The variable from which the project takes the port
    variable: Option<String>,
}

#[derive(JsonSchema)]
pub(super) struct Events {
    events: Vec<Event>,
}

/// What only some events have is not listed here.
#[derive(JsonSchema)]
struct Event {
    time: String,
    action: String,
    /// What happened, as a sentence
    message: Option<String>,
}
