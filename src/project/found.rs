//! What was found in one folder. A need that two files show is one need.

use super::Need;
use crate::port::Port;

/// No real project has more needs; this stops an attack.
const MOST: usize = 200;

/// The needs of one folder so far.
#[derive(Default)]
pub(super) struct Found {
    needs: Vec<Need>,
    web: Vec<Web>,
}

/// A clue about the folder's own web server, whatever that is.
struct Web {
    port: Option<Port>,
    because: String,
    /// What it is, if it turns out to be a different server.
    otherwise: Option<(&'static str, String)>,
}

impl Found {
    /// Adds a need, or adds the port to the same need if that exists.
    pub(super) fn add(
        &mut self,
        service_type: &'static str,
        name: Option<String>,
        port: Option<Port>,
        because: String,
    ) {
        let is_room = self.needs.len() < MOST;
        let same =
            |need: &&mut Need| need.service_type == service_type && need.service_name == name;
        match self.needs.iter_mut().find(same) {
            Some(need) => fill(need, port, &because),
            None if is_room => {
                self.needs.push(Need { service_type, service_name: name, port, because });
            }
            None => {}
        }
    }

    /// Adds a need that is only likely: if there is one of this type already, that one only gets the port.
    pub(super) fn hint(&mut self, service_type: &'static str, port: Option<Port>, because: String) {
        let mut known: Vec<_> =
            self.needs.iter_mut().filter(|need| need.service_type == service_type).collect();
        match &mut known[..] {
            [] => self.add(service_type, None, port, because),
            [only] => fill(only, port, &because),
            // If there are several, a file refers to the one without a name, if to any.
            several => {
                if let Some(need) = several.iter_mut().find(|need| need.service_name.is_none()) {
                    fill(need, port, &because);
                }
            }
        }
    }

    /// Whether there is a need of this type.
    pub(super) fn knows(&self, service_type: &str) -> bool {
        self.needs.iter().any(|need| need.service_type == service_type)
    }

    /// Records a clue about the folder's own web server, which other files describe better.
    pub(super) fn web(
        &mut self,
        port: Option<Port>,
        because: String,
        otherwise: Option<(&'static str, String)>,
    ) {
        if self.web.len() < MOST {
            self.web.push(Web { port, because, otherwise });
        }
    }

    /// All needs, after every file was examined.
    pub(super) fn needs(mut self) -> Vec<Need> {
        for web in std::mem::take(&mut self.web) {
            self.settle(web);
        }
        self.needs
    }

    fn settle(&mut self, web: Web) {
        let is_web = |need: &Need| matches!(need.service_type, "api" | "dev");
        let Web { port, because, otherwise } = web;
        if port.is_some() && self.needs.iter().any(|need| is_web(need) && need.port == port) {
            return;
        }
        let unnamed = |need: &&mut Need| is_web(need) && need.service_name.is_none();
        let open = self.needs.iter_mut().filter(unnamed).filter(|need| need.port.is_none());
        // The API first, because a dev server has the port in its own configuration.
        if let Some(need) = open.min_by_key(|need| need.service_type != "api") {
            return fill(need, port, &because);
        }
        let is_first = !self.needs.iter().any(is_web);
        match otherwise {
            Some((service_type, name)) if is_first || port.is_some() => {
                self.add(service_type, Some(name), port, because);
            }
            None if is_first => self.add("dev", None, port, because),
            _ => {}
        }
    }
}

/// Sets the port of the need if it has none, and records where it comes from.
fn fill(need: &mut Need, port: Option<Port>, because: &str) {
    if need.port.is_none() && port.is_some() {
        need.port = port;
        need.because = format!("{}; {because}", need.because);
    }
}
