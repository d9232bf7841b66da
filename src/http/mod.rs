//! The door over HTTP. It translates, and decides nothing. Whoever can open the socket is the user.
//!
//! - [`routes`]: what can be asked
//! - `types`: the part of it that is about service types and the configuration
//! - `bounds`: how much, and for how long, the service reads
//! - `connection`: one connection
//! - this file: the socket

mod bounds;
mod connection;
pub mod routes;
mod types;

use std::{sync::Arc, time::Duration};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
};

use crate::{
    broker::{Broker, Caller},
    kernel::process,
    lease::{Client, Transport},
};

/// The header of a request that only looks: it does not keep the service from its idle exit.
pub const OBSERVER: &str = "styxy-observer";

/// Accepts connections until `stop` says so. Those that are open then finish what they are at. Each on which
/// something was asked counts as activity until it is closed.
pub async fn serve(listener: UnixListener, broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let router = routes::router(Arc::clone(&broker));
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: let some connections end first.
                    tracing::warn!("a connection could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stopped(&mut stop) => return,
        };
        let Some(caller) = peer(&stream) else { continue };
        let (router, broker, stop) = (router.clone(), Arc::clone(&broker), stop.clone());
        tokio::spawn(connection::serve(stream, caller, router, broker, stop));
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone has stopped too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Who is on the other side (`SO_PEERCRED`, unix(7)); `None` for another user.
fn peer(stream: &UnixStream) -> Option<Caller> {
    let credentials = stream.peer_cred().ok()?;
    let uid = credentials.uid();
    if uid != process::uid() && uid != 0 {
        return None;
    }
    let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
    let comm = pid.and_then(process::comm);
    let pidfd = pid.and_then(|pid| process::peer(stream, pid)).map(Arc::new);
    let client = Client { transport: Transport::Http, pid, uid: Some(uid), comm };
    Some(Caller { client, connection: None, pidfd })
}
