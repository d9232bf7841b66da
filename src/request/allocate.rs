use super::{
    LONGEST_TTL, MOST_PORTS, OwnerRequest, Problems, flag, mismatch, owner::OwnerOptions,
    placeholder, port, renamed, unknown, whole, word,
};
use crate::{
    error::Error,
    lease::{InstanceId, LeaseId, MemoryKey, ProjectPath, REMAP, Remap, ServiceName, SingletonKey},
    port::{Port, Protocol},
    service_type::{
        Hold, InstanceBehavior, ServiceType, ServiceTypeName, TemplateName, Templates, nearest,
    },
    value::Value,
};

/// A request for a port.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the request")]
pub struct AllocateRequest {
    /// The service type.
    pub service_type: ServiceTypeName,
    /// The id for the lease, so that a caller who got no answer can retry: only one lease is granted with this
    /// id.
    pub lease_id: Option<LeaseId>,
    /// The name of the service.
    pub service_name: Option<ServiceName>,
    /// The program that is about to be started on the port, which distinguishes the programs of a service
    /// without a name.
    pub program: Option<ServiceName>,
    /// The instance that asks.
    pub instance_id: Option<InstanceId>,
    /// The checkout that it is for.
    pub project_path: Option<ProjectPath>,
    /// The package in the checkout, if it has several: a folder inside it.
    pub package_path: Option<ProjectPath>,
    /// The port that the program asks for, if the request is for its real port in this project.
    pub asked: Option<Port>,
    /// How it is mapped; [`Remap::Private`] by default.
    pub remap: Option<Remap>,
    /// The port to try first.
    pub port: Option<Port>,
    /// The name of an offset from the type's first preferred port: that port is tried first.
    pub template: Option<TemplateName>,
    /// Whether to accept no other port than the requested one.
    pub strict: bool,
    /// TCP, UDP, or the same number in both; by default, as the service type has it.
    pub protocol: Option<Protocol>,
    /// The number of consecutive ports, all or none.
    pub count: u16,
    /// How to keep the port until it is used; by default, as the service type has it.
    pub hold: Option<Hold>,
    /// The time limit in seconds.
    pub ttl: Option<u64>,
    /// The owner of the lease.
    pub owner: OwnerRequest,
    /// Which singleton of the type, if it has several.
    pub singleton_key: Option<SingletonKey>,
    /// Whether to create an unknown type even if its name looks like a typo.
    pub create: bool,
    /// Whether to return the lease that the service already has, if it has one.
    pub claim: bool,
    /// Whether to use the claim of the service, unless it is in use already.
    pub use_claim: bool,
    /// The lease of the `styxy run` around the caller: the request gets that, if it is for the same service and only commands
    /// around the caller have it.
    pub within: Option<LeaseId>,
    /// Whether the lease is for the server that listens on the requested TCP port already.
    pub adopt: bool,
    /// Whether to answer what would happen, without changing anything.
    pub dry_run: bool,
    /// The fingerprint of the configuration that the caller sees; the request is refused if the service sees a
    /// different one.
    pub config_seen: Option<String>,
}

impl AllocateRequest {
    /// A request with only its type.
    pub fn new(service_type: ServiceTypeName) -> Self {
        Self {
            service_type,
            lease_id: None,
            service_name: None,
            program: None,
            instance_id: None,
            project_path: None,
            package_path: None,
            asked: None,
            remap: None,
            port: None,
            template: None,
            strict: false,
            protocol: None,
            count: 1,
            hold: None,
            ttl: None,
            owner: OwnerRequest::None,
            singleton_key: None,
            create: false,
            claim: false,
            use_claim: false,
            within: None,
            adopt: false,
            dry_run: false,
            config_seen: None,
        }
    }

    /// Parses a request from a door; the error names every invalid option.
    pub fn parse<K: AsRef<str>>(
        service_type: &str,
        options: impl IntoIterator<Item = (K, Value)>,
    ) -> Result<Self, Error> {
        let mut problems = Problems::default();
        let service_type = problems.note(service_type.parse());
        let mut request = Self::new(service_type.unwrap_or_else(placeholder));
        let mut owner = OwnerOptions::default();
        for (key, value) in options {
            let key = key.as_ref();
            problems.note(match key {
                "lease_id" => word(key, &value).map(|v| request.lease_id = Some(v)),
                "service_name" => word(key, &value).map(|v| request.service_name = Some(v)),
                "program" => word(key, &value)
                    .map(|v| request.program = Some(v))
                    .map_err(|error| renamed(error, "service_name", key)),
                "instance_id" => word(key, &value).map(|v| request.instance_id = Some(v)),
                "project_path" => word(key, &value).map(|v| request.project_path = Some(v)),
                "package_path" => word(key, &value)
                    .map(|v| request.package_path = Some(v))
                    .map_err(|error| renamed(error, "project_path", key)),
                "asked" => port(key, &value).map(|v| request.asked = Some(v)),
                "remap" => word(key, &value).map(|v| request.remap = Some(v)),
                "port" => port(key, &value).map(|v| request.port = Some(v)),
                "template" => word(key, &value).map(|v| request.template = Some(v)),
                "protocol" => word(key, &value).map(|v| request.protocol = Some(v)),
                "singleton_key" => word(key, &value).map(|v| request.singleton_key = Some(v)),
                "create" => flag(key, &value).map(|v| request.create = v),
                "claim" => flag(key, &value).map(|v| request.claim = v),
                "use_claim" => flag(key, &value).map(|v| request.use_claim = v),
                "within" => word(key, &value).map(|v| request.within = Some(v)),
                "strict" => flag(key, &value).map(|v| request.strict = v),
                "adopt" => flag(key, &value).map(|v| request.adopt = v),
                "dry_run" => flag(key, &value).map(|v| request.dry_run = v),
                "config_seen" => match &value {
                    Value::Str(seen) => {
                        request.config_seen = Some(seen.clone());
                        Ok(())
                    }
                    other => Err(mismatch(key, "a string", other)),
                },
                "count" => whole(key, &value, MOST_PORTS.into())
                    .map(|v| request.count = u16::try_from(v).unwrap_or(MOST_PORTS)),
                "hold" => word(key, &value).map(|v| request.hold = Some(v)),
                "ttl" => whole(key, &value, LONGEST_TTL).map(|v| request.ttl = Some(v)),
                _ => owner
                    .take(key, &value)
                    .unwrap_or_else(|| Err(unknown("option", key, &Self::OPTIONS))),
            });
        }
        if let Some(owner) = problems.note(owner.request()) {
            request.owner = owner;
        }
        if request.hold == Some(Hold::Guard) && request.protocol == Some(Protocol::Udp) {
            problems.note::<()>(Err(Error::invalid(
                "a guard can hold a TCP port only: UDP takes hold none, or AllocateSocket",
            )));
        }
        if request.hold == Some(Hold::Socket) {
            problems.note::<()>(Err(Error::invalid(
                "hold socket needs a way to hand the socket over: call AllocateSocket on the bus",
            )));
        }
        problems.note(request.package_is_inside());
        problems.note(request.adopts_one_port());
        for problem in request.problems_of_mapping() {
            problems.note::<()>(Err(Error::invalid(problem)));
        }
        if (request.claim || request.use_claim) && request.project_path.is_none() {
            problems
                .note::<()>(Err(Error::invalid("a claim belongs to a project: give project_path")));
        }
        if request.strict && request.port.is_none() && request.template.is_none() {
            problems.note::<()>(Err(Error::invalid(
                "strict needs a port or a template: neither is given",
            )));
        }
        if request.port.is_some() && request.template.is_some() {
            problems.note::<()>(Err(Error::invalid(
                "a template names a port, and so does port: give one of the two",
            )));
        }
        problems.or(request)
    }

    /// The same request, if it is suitable for handing over the bound socket.
    pub fn for_socket(self) -> Result<Self, Error> {
        if self.count > 1 || self.protocol == Some(Protocol::Both) {
            return Err(Error::invalid(
                "one socket is handed over at a time: ask for one port and one protocol",
            ));
        }
        if self.asked.is_some() {
            return Err(Error::invalid(
                "a mapping takes no socket that is handed over: call Allocate with asked",
            ));
        }
        if self.hold.is_some() || self.dry_run || self.lease_id.is_some() || self.adopt {
            return Err(Error::invalid(
                "a socket that is handed over takes neither hold nor dry_run nor lease_id nor adopt",
            ));
        }
        Ok(self)
    }

    /// The keys of the options.
    pub(crate) const OPTIONS: [&str; 26] = [
        "lease_id",
        "service_name",
        "program",
        "instance_id",
        "project_path",
        "package_path",
        "asked",
        "remap",
        "port",
        "template",
        "protocol",
        "strict",
        "count",
        "hold",
        "ttl",
        "owner",
        "pid",
        "pidfd",
        "unit",
        "singleton_key",
        "claim",
        "use_claim",
        "within",
        "create",
        "adopt",
        "dry_run",
    ];

    /// The requested protocol; TCP if there is none.
    pub fn protocol(&self) -> Protocol {
        self.protocol.unwrap_or_default()
    }

    /// The request, with missing options filled in from its service type; fails if the two do not fit.
    pub fn completed(&self, service_type: &ServiceType) -> Result<Self, Error> {
        let name = &self.service_type;
        let is_single = service_type.instance_behavior == InstanceBehavior::Single;
        if is_single && self.count > 1 {
            return Err(Error::invalid(format!("{name} runs once, so it has one port"))
                .suggest("ask without count"));
        }
        if !is_single && self.singleton_key.is_some() {
            return Err(Error::invalid(format!(
                "singleton_key is for single-instance types, but {name} is not one"
            ))
            .suggest(format!(
                "ask without it, or set service_types.{name}.instance_behavior to \"single\""
            )));
        }
        if is_single && self.asked.is_some() {
            return Err(Error::invalid(format!(
                "{name} runs once for all projects, so its port cannot be the real one of a mapping"
            ))
            .suggest(format!("ask with another type, such as {REMAP}")));
        }
        let protocol = self.protocol.unwrap_or(service_type.protocol);
        if self.asked.is_some() && protocol == Protocol::Both {
            return Err(Error::invalid(ONE_PROTOCOL));
        }
        if self.adopt && protocol != Protocol::Tcp {
            return Err(not_tcp().suggest("ask with protocol tcp, or without adopt"));
        }
        Ok(Self { protocol: Some(protocol), ..self.clone() })
    }

    /// The port that the template of the request stands for: the template's offset from the type's first
    /// preferred port, or from the first port of a type without one.
    pub fn template_port(
        &self,
        service_type: &ServiceType,
        templates: &Templates,
    ) -> Result<Option<Port>, Error> {
        let Some(template) = &self.template else { return Ok(None) };
        let Some(offset) = templates.get(template) else {
            let known = || templates.keys().map(TemplateName::as_str);
            let error = Error::invalid(format!("there is no template {template}"));
            return Err(match nearest(template.as_str(), known()) {
                Some(nearest) => error.suggest(format!("did you mean {nearest:?}?")),
                None => error.suggest(format!(
                    "the known ones are {}",
                    known().collect::<Vec<_>>().join(", ")
                )),
            });
        };
        let first = service_type.preferred_ports.first();
        let first = first.copied().unwrap_or(service_type.port_range.first());
        let port = first.plus(*offset).filter(|port| service_type.contains(*port));
        port.map(Some).ok_or_else(|| {
            Error::invalid(format!(
                "the template {template} is {offset} ports after {first}, beyond the range of {} ({})",
                self.service_type,
                service_type.describe_ranges()
            ))
            .suggest("ask with another template, or without one")
        })
    }

    /// Checks that the package is a folder inside its project.
    fn package_is_inside(&self) -> Result<(), Error> {
        let Some(package) = &self.package_path else { return Ok(()) };
        let is_inside = |project: &ProjectPath| {
            let rest = package.as_str().strip_prefix(project.as_str());
            let is_folder = |name: &str| !["", ".."].contains(&name);
            let rest = match project.as_str() {
                "/" => rest,
                _ => rest.and_then(|rest| rest.strip_prefix('/')),
            };
            rest.is_some_and(|rest| rest.split('/').all(is_folder))
        };
        if self.project_path.as_ref().is_some_and(is_inside) {
            return Ok(());
        }
        Err(Error::invalid("package_path must be a folder inside project_path")
            .suggest("leave it out for the project itself"))
    }

    /// What is wrong with a request for a mapping.
    fn problems_of_mapping(&self) -> Vec<String> {
        if self.asked.is_none() {
            let remap = "remap says how the port in asked is mapped: give asked";
            return self.remap.map(|_| remap.to_owned()).into_iter().collect();
        }
        let mut problems = Vec::new();
        if self.project_path.is_none() {
            problems.push("asked is mapped for one project: give project_path".to_owned());
        }
        if self.protocol == Some(Protocol::Both) {
            problems.push(ONE_PROTOCOL.to_owned());
        }
        for (is_given, option, why) in [
            (self.port.is_some(), "port", "the service chooses the real port"),
            (self.template.is_some(), "template", "the service chooses the real port"),
            (self.strict, "strict", "the service chooses the real port"),
            (self.count > 1, "count", "each port is mapped by itself"),
            (self.claim, "claim", "a mapping is shared by itself"),
            (self.use_claim, "use_claim", "a mapping is shared by itself"),
            (self.within.is_some(), "within", "a mapping is shared by itself"),
            (self.singleton_key.is_some(), "singleton_key", "a mapping is of one project"),
            (self.adopt, "adopt", "the real port must be free"),
        ] {
            if is_given {
                problems.push(format!("{option} cannot be given with asked: {why}"));
            }
        }
        problems
    }

    /// Checks that a request to adopt a port names exactly one, and asks for nothing that would reserve it.
    fn adopts_one_port(&self) -> Result<(), Error> {
        let problem = match self {
            Self { adopt: false, .. } => return Ok(()),
            Self { port: None, .. } | Self { strict: false, .. } => {
                "adopt is for a port that a server listens on already: give port and strict"
            }
            Self { count: 2.., .. } => "adopt is for one port at a time: ask without count",
            Self { protocol: Some(Protocol::Udp | Protocol::Both), .. } => return Err(not_tcp()),
            Self { hold: Some(Hold::Guard), .. } => {
                "a port that a server listens on already cannot be guarded: adopt takes hold none"
            }
            _ if self.claim || self.use_claim || self.within.is_some() => {
                "adopt makes a new lease: give it without claim, use_claim and within"
            }
            _ => return Ok(()),
        };
        Err(Error::invalid(problem))
    }

    /// The key that the granted port will be remembered under if no other lease of the service is live; `None`
    /// without a project.
    pub fn memory_key(&self) -> Option<MemoryKey> {
        if let Some(asked) = self.asked {
            return Some(MemoryKey::of_mapping(self.project_path.clone()?, self.protocol(), asked));
        }
        Some(MemoryKey {
            asked: None,
            project_path: self.project_path.clone()?,
            package_path: self.package_path.clone(),
            service_type: self.service_type.clone(),
            service_name: self.service_name.clone(),
            protocol: self.protocol(),
            singleton_key: self.singleton_key.clone(),
            count: self.count,
            slot: 1,
        })
    }
}

/// The problem of a mapping for both protocols.
const ONE_PROTOCOL: &str = "a mapping is for one protocol: ask for tcp or udp";

/// The refusal to adopt a port of another protocol: UDP has no listeners to tell servers from clients.
fn not_tcp() -> Error {
    Error::invalid("adopt is for TCP: a UDP socket does not show whether it is a server's")
}
