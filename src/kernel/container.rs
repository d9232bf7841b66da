//! Which container a process is in, from the name of its control group; and which container a `docker-proxy`
//! serves, from its command line.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::{
    port::Protocol,
    word::{shortened, visible},
};

/// How many digits of a container's id are shown, as by `docker ps`.
const SHOWN_OF_AN_ID: usize = 12;

/// A container that a process belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Container {
    /// The process runs in it.
    Within {
        /// What runs it: `docker`, `podman`, `containerd`, `cri-o`, `kubernetes`, `lxc`, `machine` (known to
        /// systemd-machined), or else `container`.
        runtime: &'static str,
        /// The first 12 digits of its id, or its name.
        id: String,
    },
    /// The process forwards connections into it; only its address there is known.
    Behind(SocketAddr),
}

impl Container {
    /// The container named in the text of a `/proc/PID/cgroup` (cgroups(7)), unless it is `ours`, in which
    /// everything visible here runs. Of nested containers it is the outermost, which the tools here know.
    pub(super) fn of_cgroup(text: &str, ours: Option<&Self>) -> Option<Self> {
        text.lines().find_map(|line| Self::of_path(line.splitn(3, ':').nth(2)?, ours))
    }

    fn of_path(path: &str, ours: Option<&Self>) -> Option<Self> {
        let mut parent = "";
        path.split('/').find_map(|part| {
            let found = by_name(parent, part).or_else(|| by_id(path, parent, part));
            parent = part;
            let found = found.map(|(runtime, id)| Self::Within { runtime, id });
            found.filter(|found| Some(found) != ours)
        })
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within { runtime, id } => write!(f, "{runtime} {id}"),
            Self::Behind(address) => write!(f, "docker {address}"),
        }
    }
}

/// Containers with names.
fn by_name(parent: &str, part: &str) -> Option<(&'static str, String)> {
    let machine = part.strip_prefix("machine-").and_then(|name| name.strip_suffix(".scope"));
    let service = part.strip_prefix("systemd-nspawn@").and_then(|n| n.strip_suffix(".service"));
    let (runtime, name) = if let Some(name) = machine.or(service) {
        // systemd escapes hyphens in unit names (systemd.unit(5)).
        ("machine", name.replace("\\x2d", "-"))
    } else if let Some(name) = part.strip_prefix("lxc.payload.") {
        ("lxc", name.to_owned())
    } else if matches!(parent, "lxc" | "lxc.payload") {
        ("lxc", part.to_owned())
    } else {
        return None;
    };
    (!name.is_empty()).then(|| (runtime, shortened(&visible(&name))))
}

/// Containers with ids of 64 hexadecimal digits: `docker-ID.scope`, `docker/ID`, `kubepods/burstable/podUID/ID`,
/// and the like.
fn by_id(path: &str, parent: &str, part: &str) -> Option<(&'static str, String)> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let (prefix, id) = part.rsplit_once(['-', ':']).unwrap_or(("", part));
    if id.len() != 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let runtime = match if prefix.is_empty() { parent } else { prefix } {
        "docker" => "docker",
        maker if maker.starts_with("libpod") => "podman",
        maker if maker.starts_with("crio") => "cri-o",
        maker if maker.ends_with("containerd") || maker == "nerdctl" => "containerd",
        _ if path.contains("kubepods") => "kubernetes",
        _ => "container",
    };
    Some((runtime, id[..SHOWN_OF_AN_ID].to_owned()))
}

/// The settings on the command line of a `docker-proxy`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    /// The protocol and the address that it listens on.
    pub(super) listens: (Protocol, SocketAddr),
    /// The address in the container that it forwards connections to.
    pub(super) to: SocketAddr,
}

impl Proxy {
    /// Parses the arguments; `None` if one is missing or invalid.
    pub(super) fn parse(arguments: &[String]) -> Option<Self> {
        let value = |name: &str| {
            let mut after = arguments.iter().skip_while(|a| a.trim_start_matches('-') != name);
            after.nth(1).map(String::as_str)
        };
        let address = |ip: &str, port: &str| {
            let ip: IpAddr = value(ip)?.parse().ok()?;
            Some(SocketAddr::new(ip, value(port)?.parse().ok()?))
        };
        let listens = (value("proto")?.parse().ok()?, address("host-ip", "host-port")?);
        Some(Self { listens, to: address("container-ip", "container-port")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn of(path: &str) -> Option<String> {
        let text = format!("0::{}\n", path.replace("ID", ID));
        Container::of_cgroup(&text, None).map(|container| container.to_string())
    }

    #[test]
    fn a_container_is_known_by_the_names_that_each_runtime_gives() {
        for (path, container) in [
            ("/system.slice/docker-ID.scope", "docker 0123456789ab"),
            ("/docker/ID", "docker 0123456789ab"),
            ("/docker/ID/init.scope", "docker 0123456789ab"),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
                "podman 0123456789ab",
            ),
            ("/machine.slice/libpod-conmon-ID.scope", "podman 0123456789ab"),
            ("/user.slice/web.service/libpod-payload-ID", "podman 0123456789ab"),
            (
                "/kubepods.slice/kubepods-pod1f_2e.slice/cri-containerd-ID.scope",
                "containerd 0123456789ab",
            ),
            ("/kubepods.slice/kubepods-pod1f_2e.slice/crio-ID.scope", "cri-o 0123456789ab"),
            (
                "/system.slice/containerd.service/kubepods-pod1:cri-containerd:ID",
                "containerd 0123456789ab",
            ),
            ("/kubepods/burstable/pod1f-2e/ID", "kubernetes 0123456789ab"),
            ("/system.slice/nerdctl-ID.scope", "containerd 0123456789ab"),
            ("/ecs/task/ID", "container 0123456789ab"),
            ("/lxc/web/init.scope", "lxc web"),
            ("/lxc.payload.web/system.slice", "lxc web"),
            ("/machine.slice/machine-web\\x2d1.scope/payload", "machine web-1"),
            ("/machine.slice/systemd-nspawn@web.service/payload", "machine web"),
            // The outermost of two.
            ("/docker/ID/kubelet.slice/cri-containerd-ID.scope", "docker 0123456789ab"),
        ] {
            assert_eq!(of(path).as_deref(), Some(container), "{path}");
        }
    }

    #[test]
    fn what_only_looks_like_a_container_is_none() {
        for path in [
            "/",
            "",
            "/system.slice/docker.service",
            "/system.slice/docker-web.scope",
            "/docker/0123456789ab",
            "/docker/IDx",
            "/machine.slice/machine-.scope",
            "/machine.slice",
            "/lxc/",
            "/lxc.monitor.web",
            "/user.slice/user-1000.slice/session-1.scope",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
        assert_eq!(Container::of_cgroup("no path\n::\n\n", None), None);
    }

    #[test]
    fn the_container_that_everything_here_is_in_is_not_worth_telling() {
        let ours = Container::Within { runtime: "docker", id: ID[..12].to_owned() };
        let of = |path: &str| Container::of_cgroup(&format!("0::{path}\n"), Some(&ours));
        assert_eq!(of(&format!("/docker/{ID}/init.scope")), None);
        let inner = of(&format!("/docker/{ID}/lxc/web")).unwrap();
        assert_eq!(inner.to_string(), "lxc web");
    }

    #[test]
    fn the_first_hierarchy_that_tells_counts() {
        let text = format!("12:pids:/\n11:cpu,cpuacct:/docker/{ID}\n0::/\n");
        assert_eq!(Container::of_cgroup(&text, None).unwrap().to_string(), "docker 0123456789ab");
    }

    #[test]
    fn a_name_cannot_reach_the_terminal_with_an_escape_sequence() {
        assert_eq!(of("/lxc.payload.a\x1b[31mb").unwrap(), "lxc a\\u{1b}[31mb");
    }

    #[test]
    fn the_command_line_of_a_proxy_says_where_it_leads() {
        let parse = |line: &str| {
            let arguments: Vec<_> = line.split(' ').map(str::to_owned).collect();
            Proxy::parse(&arguments)
        };
        let line = "/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 \
                    -container-ip 172.17.0.2 -container-port 80 -use-listen-fd";
        let proxy = parse(line).unwrap();
        assert_eq!(proxy.listens, (Protocol::Tcp, "0.0.0.0:8080".parse().unwrap()));
        assert_eq!(proxy.to.to_string(), "172.17.0.2:80");
        let six = parse(&line.replace("172.17.0.2", "fd00::2")).unwrap();
        assert_eq!(six.to.to_string(), "[fd00::2]:80");
        assert_eq!(parse(&line.replace("80", "eighty")), None);
        assert_eq!(parse(&line.replace(" -container-port 80", "")), None);
        assert_eq!(parse("docker-proxy -container-ip"), None);
        assert_eq!(parse(""), None);
    }
}
