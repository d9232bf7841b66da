//! Checks of a message before the methods of the object see it, which the macro in `dbus` cannot express.

use std::{collections::HashMap, fmt};

use zbus::{
    BoxDBusError, Connection, Message, ObjectServer, OwnedVariant, Variant,
    export::async_trait::async_trait,
    fdo,
    message::Header,
    names::{InterfaceName, MemberName},
    object_server::{DispatchResult, Interface, SignalEmitter},
};

use super::Styxy;
use crate::error::{Error, ErrorKind};

/// The largest message that is read, in bytes: a value takes a multiple of its message size in memory, and the
/// bus lets 128 MiB through.
const LARGEST_CALL: usize = 64 * 1024;

/// The object on the bus.
pub(super) struct Object(pub(super) Styxy);

#[async_trait]
impl Interface for Object {
    fn name() -> InterfaceName<'static> {
        Styxy::name()
    }

    async fn get(
        &self,
        property: &str,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> Option<Result<OwnedVariant, BoxDBusError>> {
        self.0.get(property, server, connection, header, emitter).await
    }

    async fn get_all(
        &self,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> fdo::Result<HashMap<String, OwnedVariant>> {
        self.0.get_all(server, connection, header, emitter).await
    }

    /// Distinguishes a read-only property from one that does not exist (D-Bus Specification,
    /// `org.freedesktop.DBus.Properties`).
    async fn set_mut(
        &mut self,
        property: &str,
        _: &Variant<'_>,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> Option<Result<(), BoxDBusError>> {
        self.0.get(property, server, connection, header, emitter).await?.ok()?;
        let message = format!("{property} can be read only; a method of the interface changes it");
        Some(Err(Box::new(fdo::Error::PropertyReadOnly(message))))
    }

    fn call<'call>(
        &'call self,
        server: &'call ObjectServer,
        connection: &'call Connection,
        message: &'call Message,
        name: MemberName<'call>,
    ) -> DispatchResult<'call> {
        let length = message.body().len();
        if length > LARGEST_CALL {
            let refusal = async move { Err::<(), _>(too_large(length)) };
            return DispatchResult::new_async(connection, message, refusal);
        }
        self.0.call(server, connection, message, name)
    }

    fn call_mut<'call>(
        &'call mut self,
        server: &'call ObjectServer,
        connection: &'call Connection,
        message: &'call Message,
        name: MemberName<'call>,
    ) -> DispatchResult<'call> {
        self.0.call_mut(server, connection, message, name)
    }

    fn introspect_to_writer(&self, writer: &mut dyn fmt::Write, level: usize) {
        self.0.introspect_to_writer(writer, level);
    }
}

fn too_large(length: usize) -> Error {
    let message = format!("the message has {length} bytes, and at most {LARGEST_CALL} are read");
    Error::new(ErrorKind::LimitExceeded, message)
        .suggest("give each option once, and nothing that is no option")
}
