//! What was found in one folder. A need that two files show is one need.

use std::path::Path;

use super::{Need, Place, compose::Published, is_web};
use crate::port::{Port, Protocol};

/// No real project has more needs; this stops an attack.
const MOST: usize = 200;

/// The port on which tools make the browser reload. It is never that of a service of its own.
const RELOAD: u16 = 35729;
/// The ports that tools listen on beside a server: the debuggers of Node.js, the JVM, Python and Go, and what reloads a
/// browser.
pub(super) const BESIDE: [u16; 7] = [9229, 9230, 5005, 5678, 2345, RELOAD, 24678];

/// What a file shows of a service.
#[derive(Clone, Debug)]
pub(super) struct Clue {
    service_type: &'static str,
    name: Option<String>,
    port: Option<Port>,
    usual: Option<Port>,
    /// The port inside a container, if the service is published from one.
    inside: Option<Port>,
    protocol: Protocol,
    place: Place,
    what: String,
    command: Option<String>,
    variable: Option<String>,
}

impl Clue {
    /// A service of this type, where it is shown, and what shows it.
    pub(super) fn new(service_type: &'static str, place: Place, what: impl Into<String>) -> Self {
        let what = what.into();
        let (name, port, usual, inside, command, variable) = (None, None, None, None, None, None);
        let protocol = Protocol::Tcp;
        Self { service_type, name, port, usual, inside, protocol, place, what, command, variable }
    }

    pub(super) fn named(self, name: impl Into<Option<String>>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// The port that the project names.
    pub(super) fn on(self, port: impl Into<Option<Port>>) -> Self {
        Self { port: port.into(), ..self }
    }

    /// The port that the program takes if it is told none.
    pub(super) fn usually(self, port: impl Into<Option<u16>>) -> Self {
        Self { usual: port.into().and_then(|port| Port::new(port.into())), ..self }
    }

    /// The port that it has inside a container.
    pub(super) fn inside(self, port: impl Into<Option<Port>>) -> Self {
        Self { inside: port.into(), ..self }
    }

    pub(super) fn over(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// The same on another port of its container.
    pub(super) fn published(self, port: &Published) -> Self {
        if self.inside == port.container && self.port == port.host {
            return self;
        }
        let what = port.host.map_or(self.what.clone(), |port| format!("a container on {port}"));
        let Published { container, host, variable, .. } = port;
        Self { what, ..self }.inside(*container).on(*host).from(variable.clone())
    }

    /// The command line that starts it, in the folder of the package.
    pub(super) fn by(self, command: impl Into<Option<String>>) -> Self {
        Self { command: command.into(), ..self }
    }

    /// The variable from which the project takes the port.
    pub(super) fn from(self, variable: impl Into<Option<String>>) -> Self {
        Self { variable: variable.into(), ..self }
    }

    pub(super) fn service_type(&self) -> &'static str {
        self.service_type
    }

    pub(super) fn port(&self) -> Option<Port> {
        self.port
    }

    pub(super) fn usual(&self) -> Option<Port> {
        self.usual
    }

    pub(super) fn is_named(&self) -> bool {
        self.name.is_some()
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Changes the port that the program takes if it is told none from one to another.
    pub(super) fn usual_instead(&mut self, of: u16, usual: u16) {
        if self.usual.is_some_and(|port| port.get() == of) {
            self.usual = Port::new(usual.into());
        }
    }

    /// Makes a dev server one of documentation.
    pub(super) fn make_documentation(&mut self) {
        if self.service_type == "dev" {
            self.service_type = "docs";
        }
    }

    /// The same as a service of another type, with a name.
    pub(super) fn otherwise(self, (service_type, name): (&'static str, String)) -> Self {
        Self { service_type, name: Some(name), ..self }
    }

    fn need(self, package: &Path) -> Need {
        let because = format!("{}: {}", self.place.file, self.what);
        Need {
            service_type: self.service_type.into(),
            service_name: self.name,
            package: package.to_owned(),
            port: self.port,
            usual: self.usual,
            count: 1,
            protocol: self.protocol,
            place: self.place,
            because,
            command: self.command,
            variable: self.variable,
        }
    }
}

/// The needs of one folder so far.
#[derive(Default)]
pub(super) struct Found {
    clues: Vec<Clue>,
    web: Vec<Web>,
}

/// A clue about the folder's own web server, whatever that is.
struct Web {
    clue: Clue,
    /// What it is, if it turns out to be a different server.
    otherwise: Option<(&'static str, String)>,
    /// Whether it is a server beside those that have names.
    is_certain: bool,
}

impl Found {
    /// Adds a service, or adds what is new to the same one if that exists.
    pub(super) fn add(&mut self, clue: Clue) {
        if clue.port.is_some_and(|port| port.get() == RELOAD) {
            return;
        }
        let is_room = self.clues.len() < MOST;
        let same = |known: &&mut Clue| {
            (known.service_type, &known.name, known.protocol)
                == (clue.service_type, &clue.name, clue.protocol)
        };
        match self.clues.iter_mut().find(same) {
            Some(known) => known.fill(clue),
            None if is_room => self.clues.push(clue),
            None => {}
        }
    }

    /// Adds a service that is only likely: if there is one of this type already, that one only gets the port.
    pub(super) fn hint(&mut self, clue: Clue) {
        if self.knows(clue.service_type) { self.complete(clue) } else { self.add(clue) }
    }

    /// Adds the port to the service of this type, if there is one.
    pub(super) fn complete(&mut self, clue: Clue) {
        let mut known: Vec<_> =
            self.clues.iter_mut().filter(|known| known.service_type == clue.service_type).collect();
        match &mut known[..] {
            [] => {}
            [only] => only.fill(clue),
            // If there are several, a file refers to the one without a name, if to any.
            several => {
                if let Some(known) = several.iter_mut().find(|known| known.name.is_none()) {
                    known.fill(clue);
                }
            }
        }
    }

    /// Adds the port to the service of this type and name; false if there is none.
    pub(super) fn complete_named(&mut self, name: Option<String>, clue: Clue) -> bool {
        let same =
            |known: &&mut Clue| known.service_type == clue.service_type && known.name == name;
        let known = self.clues.iter_mut().find(same);
        known.map(|known| known.fill(clue)).is_some()
    }

    /// The dev server without a port that takes one of these if it is told none.
    pub(super) fn usually(&mut self, ports: &[u16]) -> Option<&mut Clue> {
        let is_it = |known: &&mut Clue| {
            known.service_type == "dev"
                && known.port.is_none()
                && known.usual.is_some_and(|port| ports.contains(&port.get()))
        };
        self.clues.iter_mut().find(is_it)
    }

    /// Whether there is a service of this type.
    pub(super) fn knows(&self, service_type: &str) -> bool {
        self.clues.iter().any(|known| known.service_type == service_type)
    }

    /// Whether there is a server that people open in a browser or call, as the folder's own.
    pub(super) fn knows_web(&self) -> bool {
        self.clues.iter().any(Clue::is_web)
    }

    /// Those of a container's ports that are those of the folder's own web servers.
    pub(super) fn served<'p>(&self, ports: &'p [Published]) -> Vec<&'p Published> {
        let own = |port: Port| self.clues.iter().any(|known| known.is_web() && known.is_on(port));
        let is_own = |port: &&Published| {
            port.container.is_some_and(own)
                || port.host.is_some_and(|port| port.get() != 80 && own(port))
        };
        ports.iter().filter(is_own).collect()
    }

    /// Whether the folder's own web server may be the one with these ports.
    pub(super) fn may_serve(&self, ports: &[Published]) -> bool {
        let is_open = |known: &Clue| known.is_web() && known.port.or(known.usual).is_none();
        self.clues.iter().any(is_open) || !self.served(ports).is_empty()
    }

    /// Everything that was found.
    pub(super) fn clues(&mut self) -> impl Iterator<Item = &mut Clue> {
        self.clues.iter_mut().chain(self.web.iter_mut().map(|web| &mut web.clue))
    }

    /// Records a clue about the folder's own web server, which other files describe better.
    pub(super) fn web(&mut self, clue: Clue, otherwise: Option<(&'static str, String)>) {
        if self.web.len() < MOST {
            self.web.push(Web { clue, otherwise, is_certain: false });
        }
    }

    /// Records the same where what starts it also starts the servers that were found, which are others.
    pub(super) fn web_beside(&mut self, clue: Clue) {
        let is_certain = self.knows_web();
        if self.web.len() < MOST {
            self.web.push(Web { clue, otherwise: None, is_certain });
        }
    }

    /// All needs, after every file was examined; `package` is their folder, from the root of the project.
    pub(super) fn needs(mut self, package: &Path) -> Vec<Need> {
        for web in std::mem::take(&mut self.web) {
            self.settle(web);
        }
        self.clues.into_iter().map(|clue| clue.need(package)).collect()
    }

    fn settle(&mut self, web: Web) {
        let Web { clue, otherwise, is_certain } = web;
        let port = clue.port;
        if port.is_some() && self.clues.iter().any(|known| known.is_web() && known.port == port) {
            return;
        }
        let unnamed = |known: &&mut Clue| known.is_web() && known.name.is_none();
        // A container that listens on another port than the program that is started here runs another one.
        let may_be = |known: &&mut Clue| {
            let usual = known.usual.filter(|_| known.command.is_some());
            let is_it =
                |inside| usual.is_none_or(|usual| known.is_on(inside) || Some(usual) == port);
            known.port.is_none() && clue.inside.is_none_or(is_it)
        };
        let open = self.clues.iter_mut().filter(unnamed).filter(may_be);
        // The API first, because a dev server has the port in its own configuration.
        let listens = clue.inside.or(port);
        let order = |known: &&mut Clue| (known.usual != listens, known.service_type != "api");
        if let Some(known) = open.min_by_key(order) {
            return known.fill(clue);
        }
        let is_first = !self.knows_web();
        match otherwise {
            Some((service_type, name)) if is_first || port.is_some() => {
                self.add(clue.otherwise((service_type, name)));
            }
            None if is_first => self.add(Clue { service_type: "dev", ..clue }),
            // Beside the dev server of a front end it is the API.
            None if is_certain && !self.clues.iter().any(|c| c.is_web() && c.name.is_none()) => {
                let service_type = if self.knows("dev") { "api" } else { "dev" };
                self.add(Clue { service_type, ..clue });
            }
            _ => {}
        }
    }
}

impl Clue {
    fn is_web(&self) -> bool {
        is_web(self.service_type)
    }

    /// Is the service of another clue, which knows it better, and keeps the name and the command that it has.
    pub(super) fn refine(&mut self, other: Self) {
        if self.name.is_none() {
            self.name.clone_from(&other.name);
            self.command.clone_from(&other.command);
        }
        self.usual = other.usual;
        self.fill(other);
    }

    /// Whether it listens on this port, here or in a container. There another server, on 80, takes the place of the one that
    /// PHP has for development.
    fn is_on(&self, port: Port) -> bool {
        let is_php = ["composer ", "php ", "symfony "].iter().any(|program| {
            self.command.as_ref().is_some_and(|command| command.starts_with(program))
        });
        self.port.or(self.usual) == Some(port) || is_php && port.get() == 80
    }

    /// Takes what it does not have yet, and records where the port comes from.
    pub(super) fn fill(&mut self, other: Self) {
        if self.port.is_none() && other.port.is_some() {
            self.port = other.port;
            self.what = format!("{}; {}: {}", self.what, other.place.file, other.what);
        }
        self.usual = self.usual.or(other.usual);
        self.command = self.command.take().or(other.command);
        self.variable = self.variable.take().or(other.variable);
    }
}
