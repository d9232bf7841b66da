//! The socket in a folder, and who listens there.
//!
//! A service listens in its runtime folder, if it has one, and in its state folder, beside the lock: so whoever
//! can see the lock can reach the service. The path of a state folder may be too long for the address of a
//! socket (108 bytes, unix(7)); then the socket is reached through the opened folder, `/proc/self/fd/N/`.

use std::{
    fmt,
    fs::{DirBuilder, File, OpenOptions, Permissions, remove_file, set_permissions},
    io::{self, ErrorKind},
    os::{
        fd::AsRawFd,
        unix::{
            fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
            net::{UnixListener, UnixStream as Blocking},
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    libc::{O_CLOEXEC, O_DIRECTORY, O_PATH},
    sys::socket::{getsockopt, sockopt::PeerCredentials},
};
use tokio::net::UnixStream;

use super::folder::{self, name};
use super::machine;
use crate::kernel::network;

/// The name of the socket.
const SOCKET: &str = "http.sock";

/// The longest path that fits in a socket's address, with a terminating zero.
const LONGEST: usize = 107;

/// A folder in which a service of this user may listen.
#[derive(Clone, Debug)]
pub struct Door {
    uid: u32,
    folder: PathBuf,
    name: &'static str,
    /// Whether the folder is in the runtime directory. There, systemd may listen for the service (as root, if
    /// it is the system manager), and programs in other networks find it; a folder beside the state belongs to
    /// one network.
    is_in_runtime: bool,
}

/// Why no service can be reached at a door.
#[derive(Debug)]
pub enum Closed {
    /// Nobody listens there.
    Nobody(PathBuf, io::Error),
    /// Somebody else owns the folder or listens in it.
    Others(PathBuf, String),
    /// The service there has the ports of another network.
    Elsewhere(PathBuf),
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(path, error) => {
                write!(f, "nobody listens on {}", path.display())?;
                match error.kind() {
                    // These errors say just that.
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused => Ok(()),
                    _ => write!(f, " ({error})"),
                }
            }
            Self::Others(path, who) => write!(f, "{} is {who}'s, and is not used", path.display()),
            Self::Elsewhere(path) => {
                write!(f, "{} is of a service in another network namespace", path.display())
            }
        }
    }
}

impl std::error::Error for Closed {}

impl Door {
    /// The door in a folder.
    pub fn new(uid: u32, folder: PathBuf) -> Self {
        Self { uid, folder, name: SOCKET, is_in_runtime: false }
    }

    /// The door in a folder, with a socket of another name.
    pub fn named(uid: u32, folder: PathBuf, name: &'static str) -> Self {
        Self { uid, folder, name, is_in_runtime: false }
    }

    /// The door in a user's runtime directory.
    pub fn in_runtime(uid: u32, runtime: &Path) -> Self {
        Self { uid, folder: runtime.join("styxy"), name: SOCKET, is_in_runtime: true }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of the socket.
    pub fn path(&self) -> PathBuf {
        self.folder.join(self.name)
    }

    /// Whether there is a socket.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Why a service could not listen here.
    pub(super) fn obstacle(&self) -> Option<String> {
        let path = self.path();
        match folder::can_be_had(self.uid, &self.folder) {
            Err(why) => Some(why),
            Ok(()) if path.is_dir() => Some(format!("{} is a directory", path.display())),
            Ok(()) => None,
        }
    }

    /// Connects to the service, if one of this user listens.
    pub async fn connect(&self) -> Result<UnixStream, Closed> {
        let nobody = |error| Closed::Nobody(self.path(), error);
        let opened = self.open().map_err(nobody)?;
        self.check_folder(&opened)?;
        let stream = UnixStream::connect(self.address(&opened)).await.map_err(nobody)?;
        // The kernel recorded who called listen() (SO_PEERCRED): for a socket of systemd that is the user's
        // manager, which runs as the user.
        let peer = stream.peer_cred().map_err(nobody)?;
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
        self.check_peer(peer.uid(), pid)?;
        Ok(stream)
    }

    /// The same, before there is an async runtime.
    pub fn connect_now(&self) -> Result<Blocking, Closed> {
        let nobody = |error| Closed::Nobody(self.path(), error);
        let opened = self.open().map_err(nobody)?;
        self.check_folder(&opened)?;
        let stream = Blocking::connect(self.address(&opened)).map_err(nobody)?;
        let peer = rustix::net::sockopt::socket_peercred(&stream);
        let peer = peer.map_err(|errno| nobody(errno.into()))?;
        self.check_peer(peer.uid.as_raw(), u32::try_from(peer.pid.as_raw_pid()).ok())?;
        Ok(stream)
    }

    fn check_peer(&self, uid: u32, pid: Option<u32>) -> Result<(), Closed> {
        if uid != self.uid && !(uid == 0 && self.is_in_runtime) {
            Err(Closed::Others(self.path(), name(uid)))
        } else if self.is_of_this_network(pid) {
            Ok(())
        } else {
            Err(Closed::Elsewhere(self.path()))
        }
    }

    fn is_of_this_network(&self, pid: Option<u32>) -> bool {
        // Beside the state, the peer may be invisible: a sandbox may have its own PID namespace.
        pid.and_then(network::same)
            .unwrap_or_else(|| !self.is_in_runtime || machine::is_in_own_network())
    }

    /// Listens. The caller holds the lock of the state, or else no other service may listen here.
    pub fn listen(&self) -> Result<UnixListener, String> {
        let path = self.path();
        let trouble = |error: io::Error| format!("{}: {error}", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(trouble)?;
        let opened = self.open().map_err(trouble)?;
        self.check_folder(&opened).map_err(|closed| closed.to_string())?;
        if opened.metadata().map_err(trouble)?.mode() & 0o077 != 0 {
            set_permissions(&self.folder, Permissions::from_mode(0o700)).map_err(trouble)?;
        }
        let address = self.address(&opened);
        // A listener of another user, left there by mistake, is replaced.
        let live = Blocking::connect(&address);
        if live
            .is_ok_and(|live| getsockopt(&live, PeerCredentials).is_ok_and(|p| p.uid() == self.uid))
        {
            return Err(format!("a live service listens on {} already", path.display()));
        }
        // A socket without a listener is a leftover.
        match remove_file(&address) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(trouble(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&address).map_err(trouble)?;
        set_permissions(&address, Permissions::from_mode(0o600)).map_err(trouble)?;
        Ok(listener)
    }

    fn open(&self) -> io::Result<File> {
        let flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
        OpenOptions::new().read(true).custom_flags(flags).open(&self.folder)
    }

    fn check_folder(&self, opened: &File) -> Result<(), Closed> {
        let found = opened.metadata().map_err(|error| Closed::Nobody(self.path(), error))?;
        if found.uid() == self.uid {
            Ok(())
        } else {
            Err(Closed::Others(self.folder.clone(), name(found.uid())))
        }
    }

    /// A path to the socket that fits in an address while the folder is open.
    fn address(&self, opened: &File) -> PathBuf {
        let path = self.path();
        if path.as_os_str().len() <= LONGEST {
            return path;
        }
        PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())).join(self.name)
    }
}
