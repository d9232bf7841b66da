//! The door on the session bus. It translates, and decides nothing.

/// The bus name, and the interface's.
pub const NAME: &str = "org.styxy.Styxy1";
/// The object's path.
pub const PATH: &str = "/org/styxy/Styxy1";
/// What error names begin with.
pub const ERROR_PREFIX: &str = "org.styxy.Styxy1.Error.";

use std::{
    collections::HashMap,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Serialize, Serializer, ser::SerializeMap};
use tokio::sync::mpsc;
use zbus::{
    Connection, DBusError, Message, Signature, Type, Variant,
    fdo::{ConnectionCredentials, RequestNameFlags},
    interface,
    message::Header,
    names::{ErrorName, OwnedUniqueName},
    object_server::SignalEmitter,
};

use crate::{
    broker::Broker,
    change::{Change, Record},
    error::{Error, ErrorKind},
    kernel::process,
    lease::{Client, LeaseId, Transport},
    port::{Port, Protocol},
    request::{AllocateRequest, Filter, InstanceRequest},
    value::{Fields, Value},
};

/// What comes in.
type Options<'a> = HashMap<&'a str, Variant<'a>>;

/// What goes out (`a{sv}`), in the order in which people read it.
#[derive(Debug)]
pub(crate) struct Dict(pub(crate) Fields);

impl Type for Dict {
    const SIGNATURE: &'static Signature = Options::SIGNATURE;
}

impl Serialize for Dict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.0.len()))?;
        for (key, value) in &self.0.0 {
            map.serialize_entry(key, &to_variant(value))?;
        }
        map.end()
    }
}

/// The object on the bus.
struct Styxy {
    broker: Arc<Broker>,
    callers: Callers,
}

#[interface(name = "org.styxy.Styxy1", introspection_docs = false)]
impl Styxy {
    #[zbus(out_args("port", "lease_id", "lease"))]
    async fn allocate(
        &self,
        service_type: &str,
        options: Options<'_>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(u16, String, Dict), Error> {
        let _busy = self.broker.activity().busy();
        let request = AllocateRequest::parse(service_type, values(&options))?;
        let client = self.callers.client(connection, &header).await?;
        let sender = header.sender().map(|name| name.as_str());
        let granted = self.broker.allocate(&request, &client, sender, false).await?;
        Ok((granted.lease.port.get(), granted.lease_id(), Dict(granted.fields())))
    }

    #[zbus(out_args("socket", "port", "lease_id", "lease"))]
    async fn allocate_socket(
        &self,
        service_type: &str,
        options: Options<'_>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(zbus::OwnedFd, u16, String, Dict), Error> {
        let _busy = self.broker.activity().busy();
        let request = AllocateRequest::parse(service_type, values(&options))?.for_socket()?;
        let client = self.callers.client(connection, &header).await?;
        let sender = header.sender().map(|name| name.as_str());
        let mut granted = self.broker.allocate(&request, &client, sender, true).await?;
        let socket = granted.socket.take().ok_or_else(|| {
            Error::new(
                ErrorKind::PortInUse,
                "this service runs once, and its lease has no socket to hand over",
            )
            .suggest("call Allocate to learn its port")
        })?;
        let port = granted.lease.port.get();
        Ok((socket.into(), port, granted.lease_id(), Dict(granted.fields())))
    }

    #[zbus(out_args("port"))]
    async fn release(
        &self,
        lease_id: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<u16, Error> {
        let _busy = self.broker.activity().busy();
        let lease_id: LeaseId = lease_id.parse()?;
        let client = self.callers.client(connection, &header).await?;
        Ok(self.broker.release(lease_id, &client)?.port.get())
    }

    #[zbus(out_args("released"))]
    async fn release_matching(
        &self,
        filter: Options<'_>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<u32, Error> {
        let _busy = self.broker.activity().busy();
        let filter = Filter::parse(values(&filter))?;
        let client = self.callers.client(connection, &header).await?;
        self.broker.release_matching(filter, &client)
    }

    #[zbus(out_args("lease"))]
    async fn renew(
        &self,
        lease_id: &str,
        ttl: u64,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Error> {
        let _busy = self.broker.activity().busy();
        let lease_id: LeaseId = lease_id.parse()?;
        let client = self.callers.client(connection, &header).await?;
        let ttl = (ttl != 0).then_some(ttl);
        Ok(Dict(self.broker.renew(lease_id, ttl, &client)?.fields()))
    }

    #[zbus(out_args("forgotten"))]
    async fn forget(
        &self,
        filter: Options<'_>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<u32, Error> {
        let _busy = self.broker.activity().busy();
        let filter = Filter::parse(values(&filter))?;
        let client = self.callers.client(connection, &header).await?;
        self.broker.forget(filter, &client).await
    }

    #[zbus(out_args("instance"))]
    async fn register_instance(
        &self,
        instance_id: &str,
        options: Options<'_>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Error> {
        let _busy = self.broker.activity().busy();
        let request = InstanceRequest::parse(instance_id, values(&options))?;
        let client = self.callers.client(connection, &header).await?;
        Ok(Dict(self.broker.register_instance(&request, &client).await?.fields()))
    }

    fn heartbeat(&self, instance_id: &str) -> Result<(), Error> {
        let _busy = self.broker.activity().busy();
        self.broker.heartbeat(&instance_id.parse()?)
    }

    #[zbus(out_args("instances"))]
    fn list_instances(&self) -> Result<Vec<Dict>, Error> {
        let _busy = self.broker.activity().busy();
        Ok(self.broker.instances()?.into_iter().map(Dict).collect())
    }

    #[zbus(out_args("leases"))]
    fn list(&self, filter: Options<'_>) -> Result<Vec<Dict>, Error> {
        let _busy = self.broker.activity().busy();
        let leases = self.broker.list(&Filter::parse(values(&filter))?)?;
        Ok(leases.into_iter().map(Dict).collect())
    }

    #[zbus(out_args("result"))]
    fn check(&self, port: u16, protocol: &str) -> Result<Dict, Error> {
        let _busy = self.broker.activity().busy();
        let port = Port::new(port.into()).ok_or_else(|| {
            Error::invalid("port 0 does not exist: give a number from 1 to 65535")
        })?;
        let protocol = match protocol {
            "" => Protocol::default(),
            word => word.parse()?,
        };
        self.broker.check(port, protocol).map(Dict)
    }

    #[zbus(out_args("problems"))]
    async fn reload(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<String>, Error> {
        let _busy = self.broker.activity().busy();
        let client = self.callers.client(connection, &header).await?;
        self.broker.reload(Some(&client))
    }

    #[zbus(out_args("status"))]
    fn status(&self) -> Dict {
        let _busy = self.broker.activity().busy();
        Dict(self.broker.status())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    // Its changes are told by LeaseGranted and LeaseReleased.
    #[zbus(property(emits_changed_signal = "false"))]
    fn lease_count(&self) -> u32 {
        self.broker.lease_count()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn auto_allocation(&self) -> bool {
        // Unknown service types are refused.
        false
    }

    #[zbus(signal)]
    async fn lease_granted(
        emitter: &SignalEmitter<'_>,
        port: u16,
        lease_id: &str,
        lease: Dict,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn lease_released(
        emitter: &SignalEmitter<'_>,
        port: u16,
        lease_id: &str,
        reason: &str,
        lease: Dict,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn lease_orphaned(
        emitter: &SignalEmitter<'_>,
        port: u16,
        lease_id: &str,
        lease: Dict,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn service_type_added(
        emitter: &SignalEmitter<'_>,
        service_type: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn service_type_removed(
        emitter: &SignalEmitter<'_>,
        service_type: &str,
    ) -> zbus::Result<()>;
}

/// The door, open.
pub struct Door {
    connection: Connection,
    signals: tokio::task::JoinHandle<()>,
    broker: Arc<Broker>,
}

/// Why the door cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// There is no session bus.
    NoBus(zbus::Error),
    /// Another process has the name.
    NameTaken,
}

impl Door {
    /// Serves the object on the session bus, and only then asks for the name: a call that comes with
    /// the name must find the object.
    pub async fn open(broker: &Arc<Broker>) -> Result<Self, OpenError> {
        let object = Styxy { broker: Arc::clone(broker), callers: Callers::default() };
        let connection = zbus::connection::Builder::session()
            .serve_at(PATH, object)
            .build()
            .await
            .map_err(OpenError::NoBus)?;
        // The call that comes with the name may name an owner on the bus.
        broker.owners().set_bus(Some(connection.clone()));
        let flags = RequestNameFlags::DO_NOT_QUEUE;
        match connection.request_name_with_flags(NAME, flags).await {
            Ok(_) => {
                // Signals before the name would come from nobody that a listener knows.
                let signals = tokio::spawn(tell(connection.clone(), broker.changes()));
                Ok(Self { connection, signals, broker: Arc::clone(broker) })
            }
            Err(zbus::Error::NameTaken) => Err(OpenError::NameTaken),
            Err(error) => Err(OpenError::NoBus(error)),
        }
    }

    /// Waits until the bus is gone.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    /// Gives the name back, answers every call that reached this process before that, and closes.
    pub async fn close(self, patience: Duration) {
        let Self { connection, signals, broker } = self;
        let finish = async {
            let _ = connection.release_name(NAME).await;
            // The bus delivers in order: when this call to ourselves is answered, every call that
            // was sent to the name has been taken from the queue.
            let own = connection.unique_name().map(|name| name.to_string());
            let peer = Some("org.freedesktop.DBus.Peer");
            let _ = connection.call_method(own.as_deref(), PATH, peer, "Ping", &()).await;
            broker.activity().settled().await;
            broker.owners().close();
            broker.end_changes();
            let _ = signals.await;
            // Waits for the replies that are still being sent.
            connection.graceful_shutdown().await;
        };
        let _ = tokio::time::timeout(patience, finish).await;
    }
}

/// Tells changes as signals.
async fn tell(connection: Connection, changes: Option<mpsc::UnboundedReceiver<Record>>) {
    let Some(mut changes) = changes else { return };
    let Ok(emitter) = SignalEmitter::new(&connection, PATH) else { return };
    while let Some(record) = changes.recv().await {
        // A bus that is gone is noticed elsewhere.
        let _ = signal(&emitter, &record.change).await;
    }
}

async fn signal(emitter: &SignalEmitter<'_>, change: &Change) -> zbus::Result<()> {
    match change {
        Change::Allocate { lease } => {
            let id = lease.lease_id.to_string();
            Styxy::lease_granted(emitter, lease.port.get(), &id, Dict(lease.fields())).await
        }
        Change::Release { lease, reason } | Change::Expire { lease, reason } => {
            let (port, id) = (lease.port.get(), lease.lease_id.to_string());
            let (reason, lease) = (reason.as_str(), Dict(lease.fields()));
            Styxy::lease_released(emitter, port, &id, reason, lease).await
        }
        Change::ConfigReload { added, removed } => {
            for name in added {
                Styxy::service_type_added(emitter, name.as_str()).await?;
            }
            for name in removed {
                Styxy::service_type_removed(emitter, name.as_str()).await?;
            }
            Ok(())
        }
        Change::Orphan { lease } => {
            let id = lease.lease_id.to_string();
            Styxy::lease_orphaned(emitter, lease.port.get(), &id, Dict(lease.fields())).await
        }
        Change::Reuse { .. }
        | Change::Renew { .. }
        | Change::Forget { .. }
        | Change::RegisterInstance { .. }
        | Change::EndInstance { .. }
        | Change::Deny(_)
        | Change::ConfigError { .. }
        | Change::Recover { .. } => Ok(()),
    }
}

/// Who called. The bus is asked once for each connection, while the caller waits for its answer: so
/// it still exists, and its PID is its own. A unique name is never used twice.
#[derive(Default)]
struct Callers(Mutex<HashMap<OwnedUniqueName, Client>>);

impl Callers {
    /// The most connections to remember; a busctl is never seen again.
    const MOST: usize = 1_024;

    async fn client(&self, bus: &Connection, header: &Header<'_>) -> Result<Client, Error> {
        let Some(sender) = header.sender() else {
            return Ok(Client { transport: Transport::Dbus, pid: None, uid: None, comm: None });
        };
        if let Some(known) = self.lock().get(sender.as_str()) {
            return Ok(known.clone());
        }
        let client = ask(bus, sender.as_str()).await;
        // The bus lets in only its user and root; this is for a bus that is configured otherwise.
        if client.uid.is_some_and(|uid| uid != process::uid() && uid != 0) {
            return Err(Error::invalid("this service belongs to another user"));
        }
        let mut known = self.lock();
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(sender.to_owned().into(), client.clone());
        Ok(client)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<OwnedUniqueName, Client>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(bus: &Connection, sender: &str) -> Client {
    let name = Some("org.freedesktop.DBus");
    let reply = bus
        .call_method(name, "/org/freedesktop/DBus", name, "GetConnectionCredentials", &sender)
        .await;
    let credentials = reply.ok().and_then(|r| r.body().deserialize::<ConnectionCredentials>().ok());
    let pid = credentials.as_ref().and_then(ConnectionCredentials::process_id);
    let uid = credentials.as_ref().and_then(ConnectionCredentials::unix_user_id);
    Client { transport: Transport::Dbus, pid, uid, comm: pid.and_then(process::comm) }
}

impl DBusError for Error {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name()).build(&self.to_string())
    }

    fn name(&self) -> ErrorName<'_> {
        let name = format!("{ERROR_PREFIX}{}", self.kind.names().code);
        ErrorName::try_from(name).expect("a prefix and a word are a name")
    }

    fn description(&self) -> Option<&str> {
        Some(&self.message)
    }
}

fn values<'a>(options: &'a Options<'_>) -> impl Iterator<Item = (&'a str, Value)> {
    options.iter().map(|(key, value)| (*key, from_variant(value)))
}

/// What a variant says. Any whole number will do, whatever its type.
fn from_variant(variant: &Variant<'_>) -> Value {
    let whole = |number: i64| {
        u64::try_from(number).map_or_else(|_| Value::Other(number.to_string()), Value::U64)
    };
    match variant {
        Variant::Bool(value) => Value::Bool(*value),
        Variant::U8(value) => Value::U16((*value).into()),
        Variant::U16(value) => Value::U16(*value),
        Variant::U32(value) => Value::U32(*value),
        Variant::U64(value) => Value::U64(*value),
        Variant::I16(value) => whole((*value).into()),
        Variant::I32(value) => whole((*value).into()),
        Variant::I64(value) => whole(*value),
        Variant::Str(value) => Value::Str(value.to_string()),
        Variant::Variant(value) => from_variant(value),
        Variant::Fd(fd) => match fd.as_fd().try_clone_to_owned() {
            Ok(fd) => Value::Descriptor(Arc::new(fd)),
            Err(error) => Value::Other(format!("a descriptor that cannot be kept ({error})")),
        },
        other => Value::Other(format!("a value of type {}", other.value_signature())),
    }
}

fn to_variant(value: &Value) -> Variant<'_> {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::U16(value) => (*value).into(),
        Value::U32(value) => (*value).into(),
        Value::U64(value) => (*value).into(),
        Value::Str(value) | Value::Other(value) => value.as_str().into(),
        Value::Strings(values) => values.into(),
        Value::Ports(ports) => ports.into(),
        // No answer has one in its dictionary.
        Value::Descriptor(_) => false.into(),
        Value::Fields(fields) => {
            let entries = fields.0.iter().map(|(key, value)| (*key, to_variant(value)));
            entries.collect::<HashMap<_, _>>().into()
        }
    }
}
