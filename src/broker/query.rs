//! What can be asked without changing anything.

use super::Broker;
use crate::{
    error::Error,
    kernel::{diag, probe},
    lease::Instance,
    port::{Port, Protocol},
    registry::Obstacle,
    request::Filter,
    value::Fields,
};

impl Broker {
    /// The live leases that the filter means, each with its state at this moment.
    pub fn list(&self, filter: &Filter) -> Result<Vec<Fields>, Error> {
        let leases = {
            let mut inner = self.lock();
            self.usable(&mut inner)?;
            inner.registry.list(filter)
        };
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let (tcp, udp) = (diag::listened(Protocol::Tcp), diag::listened(Protocol::Udp));
        let fields = leases.iter().map(|lease| {
            let listened = lease.protocol.parts().iter().any(|part| match part {
                Protocol::Udp => udp.contains(lease.port),
                _ => tcp.contains(lease.port),
            });
            let state = match (lease.orphaned, listened) {
                (true, true) => "orphaned",
                (false, true) => "listening",
                (_, false) => "reserved",
            };
            let mut fields = lease.fields();
            fields.put("state", state);
            fields
        });
        Ok(fields.collect())
    }

    /// Whether a port could be had now, and why not.
    pub fn check(&self, port: Port, protocol: Protocol) -> Result<Fields, Error> {
        let obstacle = {
            let mut inner = self.lock();
            self.usable(&mut inner)?;
            let probe = |port| probe::probe_all(port, protocol).map(drop);
            inner.registry.asked(port, protocol, probe).err()
        };
        let mut fields = Fields::default();
        fields.put("port", port.get());
        fields.put("protocol", protocol.as_str());
        fields.put("available", obstacle.is_none());
        match &obstacle {
            None => {
                fields.put("reason", "free");
                fields.put("message", format!("{protocol} port {port} is free"));
            }
            Some(obstacle) => {
                fields.put("reason", obstacle.as_str());
                fields.put("message", obstacle.describe(port, protocol));
            }
        }
        fields.put("listening", diag::listened(protocol).contains(port));
        if let Some(Obstacle::Leased(lease)) = &obstacle {
            fields.put("lease", lease.fields());
        }
        Ok(fields)
    }

    /// The registered instances.
    pub fn instances(&self) -> Result<Vec<Fields>, Error> {
        let mut inner = self.lock();
        self.usable(&mut inner)?;
        let instances = inner.registry.instances();
        Ok(instances.iter().map(|instance| Instance::fields(instance)).collect())
    }

    /// How the service is doing.
    pub fn status(&self) -> Fields {
        let inner = self.lock();
        let mut fields = Fields::default();
        fields.put("version", env!("CARGO_PKG_VERSION"));
        fields.put("pid", std::process::id());
        fields.put("leases", count(inner.registry.len()));
        fields.put("guards", count(inner.guards.len()));
        fields.put("remembered_ports", count(inner.registry.memory().len()));
        fields.put("service_types", count(inner.config.types.0.len()));
        match &inner.state {
            Ok(state) => {
                let audit = state.outbox.status();
                fields.put("seq", state.store.seq());
                fields.put("audit_pending", state.store.seq().saturating_sub(audit.done));
                fields.put("audit_confirmed", audit.confirming);
                if !audit.confirming {
                    fields.put(
                        "audit_note",
                        "this user cannot read the journal, so events are sent slowly instead of being confirmed",
                    );
                }
            }
            Err(reason) => fields.put("state_problem", reason.as_str()),
        }
        fields.put(
            "config_problems",
            inner.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        );
        fields.put("idle_exit_seconds", inner.config.idle_exit.as_secs());
        fields
    }

    /// How many leases are live.
    pub fn lease_count(&self) -> u32 {
        count(self.lock().registry.len())
    }

    /// How many things somebody should look at.
    pub fn problem_count(&self) -> usize {
        let inner = self.lock();
        inner.problems.len() + usize::from(inner.state.is_err())
    }

    /// How long without a lease and without a client until the service ends; zero for never.
    pub fn idle_exit(&self) -> std::time::Duration {
        self.lock().config.idle_exit
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
