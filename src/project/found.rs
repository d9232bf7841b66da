//! What was found in one folder. Two files that tell of the same need make one.

use super::Need;
use crate::port::Port;

/// More needs than that are no project's, but an attack's.
const MOST: usize = 200;

/// The needs of one folder, so far.
#[derive(Default)]
pub(super) struct Found {
    needs: Vec<Need>,
    web: Vec<Web>,
}

/// Something said of the folder's own web server, whatever that is.
struct Web {
    port: Option<Port>,
    because: String,
    /// What it is, if it turns out to be another one.
    otherwise: Option<(&'static str, String)>,
}

impl Found {
    /// Adds a need, or the port to the same one that is there.
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

    /// Adds a need that is only likely: it counts if nothing else needs that type here.
    pub(super) fn hint(&mut self, service_type: &'static str, port: Option<Port>, because: String) {
        let mut known: Vec<_> =
            self.needs.iter_mut().filter(|need| need.service_type == service_type).collect();
        match &mut known[..] {
            [] => self.add(service_type, None, port, because),
            [only] => fill(only, port, &because),
            // Of several, a file speaks of the one without a name, if at all.
            several => {
                if let Some(need) = several.iter_mut().find(|need| need.service_name.is_none()) {
                    fill(need, port, &because);
                }
            }
        }
    }

    /// Whether something needs that type.
    pub(super) fn knows(&self, service_type: &str) -> bool {
        self.needs.iter().any(|need| need.service_type == service_type)
    }

    /// Notes something about the folder's own web server, which other files know better.
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

    /// All needs, after every file has been heard.
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
        // The API first: a dev server has its port in its own configuration.
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

/// Gives the need the port, if it has none, and says from where.
fn fill(need: &mut Need, port: Option<Port>, because: &str) {
    if need.port.is_none() && port.is_some() {
        need.port = port;
        need.because = format!("{}; {because}", need.because);
    }
}
