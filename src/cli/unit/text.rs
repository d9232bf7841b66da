//! The texts of the units: systemd.unit(5), systemd.socket(5), systemd.service(5).

use crate::word::fnv1a;

/// What follows the name of a service in that of the server behind its socket.
pub(in crate::cli) const BACKEND: &str = "-backend";

/// How long a server may take to stop, in seconds: as long as `styxy up` leaves it.
const STOP: u64 = 10;

/// A server that the first request starts.
pub(super) struct OnDemand<'a> {
    /// What the names of its units begin with.
    pub(super) base: String,
    /// This program, and systemd-socket-proxyd(8).
    pub(super) styxy: &'a str,
    pub(super) proxy: &'a str,
    pub(super) service_type: &'a str,
    /// The name of the service, if it has one.
    pub(super) name: Option<&'a str>,
    /// The folder of the command, which is also what it is leased for.
    pub(super) folder: &'a str,
    pub(super) port: u16,
    /// Whether this machine has IPv6.
    pub(super) has_ipv6: bool,
    /// The time without a connection after which the server is stopped, in seconds.
    pub(super) idle: u64,
    /// The time that it may take to listen, in seconds.
    pub(super) patience: u64,
    /// The variables of its environment.
    pub(super) environment: Vec<(String, String)>,
    pub(super) command: Vec<&'a str>,
}

/// The beginning of the units' names for a service: `styxy-shop-web-3f2a9c01`.
pub(super) fn base(folder: &str, service_type: &str, name: Option<&str>) -> String {
    let last = folder.rsplit('/').next().unwrap_or_default();
    let label = name.unwrap_or(service_type);
    let is_good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let words = format!("{last}-{label}");
    let words: String = words.chars().map(|c| if is_good(c) { c } else { '-' }).take(100).collect();
    let key = fnv1a(format!("{folder}\n{service_type}\n{}", name.unwrap_or_default()).as_bytes());
    format!("styxy-{words}-{:08x}", key & 0xffff_ffff)
}

impl OnDemand<'_> {
    /// The name of the server. It is that of no other, for no service has an empty name.
    fn backend_name(&self) -> String {
        format!("{}{BACKEND}", self.name.unwrap_or_default())
    }

    /// The service behind the proxy, as `styxy port` takes it.
    fn backend(&self) -> String {
        format!("{}:{}", self.service_type, self.backend_name())
    }

    /// The file of each unit, the socket first.
    pub(super) fn files(&self) -> [(String, String); 3] {
        let Self { base, .. } = self;
        [
            (format!("{base}.socket"), self.socket()),
            (format!("{base}.service"), self.proxy()),
            (format!("{base}-backend.service"), self.server()),
        ]
    }

    fn socket(&self) -> String {
        let Self { base, port, .. } = self;
        let mut lease = vec![self.styxy, "allocate", self.service_type];
        let name = self.name.map(|name| format!("--name={name}"));
        lease.extend(name.as_deref());
        let (number, owner) = (port.to_string(), format!("unit:{base}.socket"));
        lease.extend([
            "--project",
            self.folder,
            "--port",
            &number,
            "--strict",
            "--owner",
            &owner,
            "-q",
        ]);
        let (description, lease) = (self.description("on demand"), line(&lease));
        let ipv6 =
            if self.has_ipv6 { format!("ListenStream=[::1]:{port}\n") } else { String::new() };
        // Each start of the proxy triggers it once, at most once in the idle time if all is well. More are a server that cannot be
        // started, which must not be tried for ever.
        let interval = 6 * self.patience + 60;
        let burst = 5 + 2 * interval / self.idle;
        // A socket of sockets.target would wait for styxy.service, which waits for that target.
        format!(
            "[Unit]\nDescription={description}\nDocumentation=man:styxy-unit(1)\nDefaultDependencies=no\n\
             Before=shutdown.target\nConflicts=shutdown.target\n\n\
             [Socket]\nExecStartPre={lease}\nListenStream=127.0.0.1:{port}\n{ipv6}\
             TriggerLimitIntervalSec={interval}\nTriggerLimitBurst={burst}\n\n\
             [Install]\nWantedBy=default.target\n"
        )
    }

    fn proxy(&self) -> String {
        let Self { base, idle, .. } = self;
        let backend = self.backend();
        let find = [self.styxy, "port", &backend, "--project", self.folder, "--format", "address"];
        // It is looked up at each start: it may be another one.
        // Of an IPv6 address the proxy wants no brackets.
        let script = format!(
            "address=$(\"$@\") && exec \"$0\" --exit-idle-time={idle} \"$(echo \"$address\" | tr -d '[]')\""
        );
        let mut start = vec!["/bin/sh", "-c", &script, self.proxy];
        start.extend(find);
        let (description, start) = (self.description("proxy"), line(&start));
        // Without its server it would refuse every connection until it is idle; without its socket it would be in the way of
        // another start of that.
        format!(
            "[Unit]\nDescription={description}\nDocumentation=man:styxy-unit(1)\n\
             BindsTo={base}-backend.service\nAfter={base}-backend.service\nPartOf={base}.socket\n\n\
             [Service]\nExecStart={start}\nTimeoutStopSec={STOP}\n"
        )
    }

    fn server(&self) -> String {
        let backend = self.backend();
        let name = format!("--name={}", self.backend_name());
        // Only `styxy run` knows the port.
        let is_filled = |(_, value): &&(String, String)| value.contains("{port");
        let (filled, plain): (Vec<_>, Vec<_>) = self.environment.iter().partition(is_filled);
        let filled: Vec<_> =
            filled.into_iter().map(|(name, value)| format!("--setenv={name}={value}")).collect();
        let mut start = vec![self.styxy, "run", self.service_type, &name];
        start.extend(filled.iter().map(String::as_str));
        start.push("--");
        start.extend(&self.command);
        let patience = self.patience.to_string();
        let ready = [
            self.styxy,
            "--timeout",
            "60",
            "port",
            &backend,
            "--project",
            self.folder,
            "--wait",
            &patience,
            "--pid",
        ];
        let environment = plain.into_iter().map(|(name, value)| {
            format!("Environment={}\n", quoted(&format!("{name}={value}"), false))
        });
        format!(
            "[Unit]\nDescription={}\nDocumentation=man:styxy-unit(1)\nStopWhenUnneeded=yes\n\n\
             [Service]\nType=exec\nWorkingDirectory={}\n{}ExecStart={}\nExecStartPost={} $MAINPID\n\
             TimeoutStartSec={}\nTimeoutStopSec={STOP}\n",
            self.description("server"),
            self.folder.replace('%', "%%"),
            environment.collect::<String>(),
            line(&start),
            line(&ready),
            self.patience + 30,
        )
    }

    fn description(&self, part: &str) -> String {
        let name = self.name.map(|name| format!(" {name}")).unwrap_or_default();
        format!("{}{name} of {} ({part})", self.service_type, self.folder).replace('%', "%%")
    }
}

/// A command line, as systemd.service(5) takes it.
fn line(words: &[&str]) -> String {
    words.iter().map(|word| quoted(word, true)).collect::<Vec<_>>().join(" ")
}

/// A word of which systemd takes nothing for its own.
fn quoted(word: &str, is_command: bool) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' => quoted.push_str("%%"),
            '$' if is_command => quoted.push_str("$$"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_ascii_control() => quoted.extend(format!("\\x{:02x}", u32::from(c)).chars()),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> OnDemand<'static> {
        OnDemand {
            base: base("/home/dev/my shop", "dev", Some("web")),
            styxy: "/usr/bin/styxy",
            proxy: "/usr/lib/systemd/systemd-socket-proxyd",
            service_type: "dev",
            name: Some("web"),
            folder: "/home/dev/my shop",
            port: 3000,
            has_ipv6: true,
            idle: 600,
            patience: 60,
            environment: [("PATH", "/a b:/100%$x"), ("URL", "http://[::1]:{port}/$x")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            command: vec!["sh", "-c", "echo \"$PORT\" 50% \\ ; exec node"],
        }
    }

    #[test]
    fn the_units_of_two_services_have_different_names() {
        let base = |folder, name| base(folder, "dev", name);
        assert!(base("/home/dev/my shop", Some("web")).starts_with("styxy-my-shop-web-"));
        let all = [base("/a/shop", None), base("/b/shop", None), base("/a/shop", Some("dev"))];
        assert!(all[0] != all[1] && all[0] != all[2], "{all:?}");
    }

    #[test]
    fn the_socket_leases_its_port_and_the_proxy_looks_up_that_of_the_server() {
        let [(socket, text), (_, proxy), (backend, _)] = server().files();
        assert!(socket.ends_with(".socket") && backend.ends_with("-backend.service"));
        let lease = "ExecStartPre=/usr/bin/styxy allocate dev --name=web --project \"/home/dev/my shop\" --port 3000 --strict --owner unit:styxy-";
        assert!(text.contains(lease), "{text}");
        assert!(
            text.contains("\nListenStream=127.0.0.1:3000\nListenStream=[::1]:3000\n"),
            "{text}"
        );
        assert!(proxy.contains(&format!("BindsTo={backend}\nAfter={backend}\n")), "{proxy}");
        assert!(proxy.contains("exec \\\"$$0\\\" --exit-idle-time=600 "), "{proxy}");
        assert!(proxy.contains("port dev:web-backend --project"), "{proxy}");
    }

    #[test]
    fn a_service_without_a_name_has_a_server_of_its_own() {
        let text = |name| OnDemand { name, ..server() }.files().map(|(_, text)| text);
        let (unnamed, named) = (text(None), text(Some("dev")));
        assert!(unnamed[1].contains("port dev:-backend "), "{}", unnamed[1]);
        assert!(unnamed[2].contains("--name=-backend "), "{}", unnamed[2]);
        assert!(named[2].contains("--name=dev-backend "), "{}", named[2]);
    }

    #[test]
    fn nothing_of_a_command_or_a_variable_is_systemds() {
        let [.., (_, text)] = server().files();
        let start = r#"-- sh -c "echo \"$$PORT\" 50%% \\ ; exec node""#;
        assert!(text.contains(start), "{text}");
        assert!(text.contains("Environment=\"PATH=/a b:/100%%$x\"\n"), "{text}");
        assert!(text.contains("\"--setenv=URL=http://[::1]:{port}/$$x\" --"), "{text}");
        assert!(!text.contains("Environment=URL") && !text.contains("Environment=\"URL"), "{text}");
        assert!(text.contains("WorkingDirectory=/home/dev/my shop\n"), "{text}");
    }
}
