//! The door on the session bus. It only translates; the broker decides.
//!
//! - this file: the object
//! - `door`: opening, closing, and signals
//! - `callers`: identifying callers
//! - `delivery`: detecting answers with a descriptor that do not arrive
//! - `object`: checks before a message reaches the object's methods
//! - `room`: how much the bus can still queue for clients that do not read
//! - `values`: converting dictionaries and errors

mod callers;
mod delivery;
mod door;
mod object;
mod room;
pub(crate) mod values;

/// The bus name, and the name of the interface.
pub const NAME: &str = "org.styxy.Styxy1";
/// The object's path.
pub const PATH: &str = "/org/styxy/Styxy1";
/// The prefix of error names.
pub const ERROR_PREFIX: &str = "org.styxy.Styxy1.Error.";

use std::sync::Arc;

use zbus::{
    Connection, interface,
    message::Header,
    object_server::{ResponseDispatchNotifier, SignalEmitter},
};

#[cfg(test)]
pub(crate) use self::door::serve_peer;
pub use self::door::{Door, OpenError, is_in_this_network};
pub(crate) use self::values::Dict;
use self::{
    callers::Callers,
    delivery::Delivery,
    values::{Options, bounded, values},
};
use crate::{
    broker::{Broker, Caller, grant::Granted},
    config::{Seen, seen::LARGEST_SEEN},
    error::Error,
    kernel::{memory, probe},
    lease::{EndReason, Lease, LeaseId},
    port::{Port, Protocol},
    request::{
        AllocateRequest, Ending, Filter, InstanceRequest, Listing, LookupRequest, MemoryListing,
    },
    service_type::Hold,
    value::Value,
};

/// The methods, signals and properties of the object on the bus.
struct Styxy {
    broker: Arc<Broker>,
    callers: Callers,
    delivery: Delivery,
}

impl Styxy {
    /// Grants a request, unless the caller has left before the grant or before its answer.
    async fn grant(
        &self,
        request: &AllocateRequest,
        caller: &Caller,
        bus: &Connection,
        header: &Header<'_>,
        hand_over: bool,
    ) -> Result<Granted, Error> {
        let gone = || Error::invalid("the caller has gone before it was answered");
        if self.callers.has_gone(bus, header).await {
            return Err(gone());
        }
        let granted = self.broker.allocate(request, caller, hand_over).await?;
        // The grant may have taken long.
        if self.callers.has_gone(bus, header).await {
            self.broker.take_back(&granted.shares(), EndReason::NotDelivered);
            return Err(gone());
        }
        Ok(granted)
    }
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
        let _busy = self.broker.idle_tracker().busy();
        let request = AllocateRequest::parse(service_type, values(&options)?)?;
        let caller = self.callers.caller(connection, &header).await?;
        let granted = self.grant(&request, &caller, connection, &header, false).await?;
        Ok((granted.lease.port.get(), granted.lease_id(), Dict(granted.fields())))
    }

    #[zbus(out_args("socket", "port", "lease_id", "lease"))]
    async fn allocate_socket(
        &self,
        service_type: &str,
        options: Options<'_>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(ResponseDispatchNotifier<zbus::OwnedFd>, u16, String, Dict), Error> {
        let _busy = self.broker.idle_tracker().busy();
        let request = AllocateRequest::parse(service_type, values(&options)?)?.for_socket()?;
        let caller = self.callers.caller(connection, &header).await?;
        let mut granted = self.grant(&request, &caller, connection, &header, true).await?;
        let missing = || Error::invalid("there is no socket to hand over");
        let socket = granted.socket.take().ok_or_else(missing)?;
        let (port, protocol) = (granted.lease.port, granted.lease.protocol);
        let (broker, shares) = (Arc::clone(&self.broker), granted.shares());
        let (asked, lease_id) = (Arc::clone(&self.broker), granted.lease.lease_id);
        let (is_held, refused) = (
            // A caller that had the socket and has ended since ends the lease as its owner.
            move || probe::reserve(port, protocol).is_err() || asked.is_leaving(lease_id),
            move || broker.take_back(&shares, EndReason::NotDelivered),
        );
        let socket = self.delivery.of(socket.into(), connection, &header, is_held, refused).await;
        Ok((socket, port.get(), granted.lease_id(), Dict(granted.fields())))
    }

    #[zbus(out_args("port"))]
    async fn release(
        &self,
        lease_id: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<u16, Error> {
        let _busy = self.broker.idle_tracker().busy();
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
        let _busy = self.broker.idle_tracker().busy();
        let ending = Ending::parse(values(&filter)?)?;
        let client = self.callers.client(connection, &header).await?;
        self.broker.release_matching(&ending, &client)
    }

    async fn set_hold(
        &self,
        lease_id: &str,
        hold: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        let _busy = self.broker.idle_tracker().busy();
        let (lease_id, hold) = (lease_id.parse()?, Hold::of_live_lease(hold)?);
        let client = self.callers.client(connection, &header).await?;
        self.broker.set_hold(lease_id, hold, &client).await
    }

    #[zbus(out_args("lease"))]
    async fn renew(
        &self,
        lease_id: &str,
        ttl: u64,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Error> {
        let _busy = self.broker.idle_tracker().busy();
        let lease_id: LeaseId = lease_id.parse()?;
        let client = self.callers.client(connection, &header).await?;
        let ttl = (ttl != 0).then_some(ttl);
        Ok(Dict(self.broker.renew(lease_id, ttl, &client)?.fields()))
    }

    #[zbus(out_args("leases"))]
    async fn clean_up(
        &self,
        older_than: u64,
        dry_run: bool,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<Dict>, Error> {
        let _busy = self.broker.idle_tracker().busy();
        let client = self.callers.client(connection, &header).await?;
        let fields = |leases: &[Arc<Lease>]| leases.iter().map(|lease| lease.fields()).collect();
        // Nothing is cleaned up if the answer would not fit into a message.
        bounded(fields(&self.broker.clean_up(older_than, true, &client)?))?;
        bounded(fields(&self.broker.clean_up(older_than, dry_run, &client)?))
    }

    #[zbus(out_args("forgotten"))]
    async fn forget(
        &self,
        filter: Options<'_>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<u32, Error> {
        let _busy = self.broker.idle_tracker().busy();
        let filter = Filter::of_memory(values(&filter)?)?;
        let client = self.callers.client(connection, &header).await?;
        self.broker.forget(filter, &client).await
    }

    #[zbus(out_args("remembered"))]
    fn list_remembered(&self, filter: Options<'_>) -> Result<Vec<Dict>, Error> {
        let _busy = self.broker.idle_tracker().busy();
        bounded(self.broker.remembered(&MemoryListing::parse(values(&filter)?)?)?)
    }

    #[zbus(out_args("instance"))]
    async fn register_instance(
        &self,
        instance_id: &str,
        options: Options<'_>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Error> {
        let _busy = self.broker.idle_tracker().busy();
        let request = InstanceRequest::parse(instance_id, values(&options)?)?;
        let caller = self.callers.caller(connection, &header).await?;
        Ok(Dict(self.broker.register_instance(&request, &caller).await?.fields()))
    }

    fn heartbeat(&self, instance_id: &str) -> Result<(), Error> {
        let _busy = self.broker.idle_tracker().busy();
        self.broker.heartbeat(&instance_id.parse()?).map(drop)
    }

    #[zbus(out_args("instances"))]
    fn list_instances(&self) -> Result<Vec<Dict>, Error> {
        let _busy = self.broker.idle_tracker().busy();
        bounded(self.broker.instances()?)
    }

    #[zbus(out_args("leases"))]
    fn list(&self, filter: Options<'_>) -> Result<Vec<Dict>, Error> {
        let _busy = self.broker.idle_tracker().busy();
        bounded(self.broker.list(&Listing::parse(values(&filter)?)?)?)
    }

    #[zbus(out_args("lease"))]
    fn lookup(&self, service: Options<'_>) -> Result<Dict, Error> {
        let _busy = self.broker.idle_tracker().busy();
        self.broker.look_up(&LookupRequest::parse(values(&service)?)?).map(Dict)
    }

    #[zbus(out_args("result"))]
    fn check(&self, port: u16, protocol: &str) -> Result<Dict, Error> {
        let _busy = self.broker.idle_tracker().busy();
        let port = Port::new(port.into()).ok_or_else(|| {
            Error::invalid("port 0 does not exist: give a number from 1 to 65535")
        })?;
        let protocol = match protocol {
            "" => Protocol::default(),
            word => word.parse()?,
        };
        self.broker.check(port, protocol).map(Dict)
    }

    #[zbus(out_args("ports"))]
    fn suggest(&self, service_type: &str, count: u32) -> Result<Vec<u16>, Error> {
        let _busy = self.broker.idle_tracker().busy();
        let request = AllocateRequest::parse(service_type, [("count", Value::U32(count))])?;
        let suggested = self.broker.suggest(&request)?;
        Ok(suggested.into_iter().map(|suggestion| suggestion.port.get()).collect())
    }

    #[zbus(out_args("suggestions"))]
    fn suggest_for(&self, service_type: &str, options: Options<'_>) -> Result<Vec<Dict>, Error> {
        let _busy = self.broker.idle_tracker().busy();
        let request = AllocateRequest::parse(service_type, values(&options)?)?;
        let suggested = self.broker.suggest(&request)?;
        Ok(suggested.into_iter().map(|suggestion| Dict(suggestion.fields())).collect())
    }

    #[zbus(out_args("types"))]
    fn list_service_types(&self) -> Result<Vec<Dict>, Error> {
        let _busy = self.broker.idle_tracker().busy();
        bounded(self.broker.service_types()?)
    }

    #[zbus(out_args("released"))]
    async fn undo_auto_allocation(
        &self,
        service_type: &str,
        force: bool,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<u32, Error> {
        let _busy = self.broker.idle_tracker().busy();
        let name = service_type.parse()?;
        let client = self.callers.client(connection, &header).await?;
        self.broker.undo_auto_allocation(&name, force, &client).await
    }

    async fn set_auto_allocation(
        &self,
        enabled: bool,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        let _busy = self.broker.idle_tracker().busy();
        let client = self.callers.client(connection, &header).await?;
        self.broker.set_auto_allocation(enabled, &client).await
    }

    #[zbus(out_args("json"))]
    fn get_configuration(&self, origins: bool) -> String {
        let _busy = self.broker.idle_tracker().busy();
        self.broker.configuration(origins).to_string()
    }

    #[zbus(out_args("backups"))]
    fn list_backups(&self) -> Result<Vec<Dict>, Error> {
        let _busy = self.broker.idle_tracker().busy();
        Ok(self.broker.config_backups()?.iter().map(|backup| Dict(backup.fields())).collect())
    }

    #[zbus(out_args("released"))]
    async fn restore_backup(
        &self,
        version: u32,
        force: bool,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<u32, Error> {
        let _busy = self.broker.idle_tracker().busy();
        let client = self.callers.client(connection, &header).await?;
        self.broker.restore_config(version, force, &client).await
    }

    #[zbus(out_args("problems"))]
    async fn reload(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<String>, Error> {
        let _busy = self.broker.idle_tracker().busy();
        let client = self.callers.client(connection, &header).await?;
        self.broker.reload(Some(&client)).await
    }

    #[zbus(out_args("restarting"))]
    fn restart(&self) -> bool {
        let _busy = self.broker.idle_tracker().busy();
        self.broker.restart()
    }

    #[zbus(out_args("result"))]
    async fn take_configuration(
        &self,
        seen: zbus::Fd<'_>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Dict, Error> {
        let _busy = self.broker.idle_tracker().busy();
        let client = self.callers.client(connection, &header).await?;
        let seen = memory::read(&seen, LARGEST_SEEN).and_then(|json| Seen::parse(&json));
        let seen = seen.map_err(|error| {
            Error::invalid(format!("seen does not say what is seen of a configuration: {error}"))
        })?;
        Ok(Dict(self.broker.take_configuration(seen, &client).await?))
    }

    async fn set_token(
        &self,
        sha256: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        let _busy = self.broker.idle_tracker().busy();
        let client = self.callers.client(connection, &header).await?;
        self.broker.set_token(sha256.parse()?, &client)
    }

    #[zbus(out_args("secret"))]
    fn open_page(&self, temporary: bool) -> Result<String, Error> {
        let _busy = self.broker.idle_tracker().busy();
        Ok(self.broker.open_page(temporary)?.reveal().to_owned())
    }

    #[zbus(out_args("status"))]
    fn status(&self) -> Dict {
        let _busy = self.broker.idle_tracker().busy();
        Dict(self.broker.status())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    #[zbus(property)]
    fn lease_count(&self) -> u32 {
        self.broker.lease_count()
    }

    #[zbus(property)]
    fn auto_allocation(&self) -> bool {
        self.broker.auto_allocation()
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
    async fn lease_changed(
        emitter: &SignalEmitter<'_>,
        port: u16,
        lease_id: &str,
        lease: Dict,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn instance_added(
        emitter: &SignalEmitter<'_>,
        instance_id: &str,
        instance: Dict,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn instance_removed(
        emitter: &SignalEmitter<'_>,
        instance_id: &str,
        reason: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn changes_missed(emitter: &SignalEmitter<'_>) -> zbus::Result<()>;

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
