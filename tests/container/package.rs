//! What the package brings, to whom it is open, and what it leaves.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};

use crate::{
    Test,
    crash::state_folder,
    machine::{Machine, eventually, package},
};

pub const TESTS: &[Test] = &[
    ("after_the_installation_a_login_is_enough", login),
    ("after_the_installation_who_is_logged_in_needs_nothing", logged_in),
    ("the_files_and_units_are_what_they_should_be", files_and_units),
    ("the_installed_introspection_is_what_the_service_answers", introspection),
    ("completion_asks_a_service_that_runs_and_starts_none", completion),
    ("another_user_can_neither_call_nor_read", another_user),
    ("the_service_cannot_see_the_files_of_its_user", sandbox),
    ("an_upgrade_keeps_leases", upgrade),
    ("an_upgrade_fails_none_of_eight_clients", upgrade_under_way),
    ("a_masked_socket_stays_masked_and_leases_stay_whatever_becomes_of_the_package", whole_life),
    ("a_purge_leaves_the_state_of_the_user_and_nothing_else", purge),
    ("another_user_can_neither_hinder_the_package_nor_use_it", hindered),
];

/// What the package has but for the pages of the verbs, each with its mode and its owner.
const FILES: &[&str] = &[
    "644 root /usr/lib/systemd/catalog/styxy.catalog",
    "644 root /usr/lib/systemd/user-preset/90-styxy.preset",
    "644 root /usr/lib/systemd/user/styxy-failed.service",
    "644 root /usr/lib/systemd/user/styxy-login.service",
    "644 root /usr/lib/systemd/user/styxy-portserver.socket",
    "644 root /usr/lib/systemd/user/styxy-restart.service",
    "644 root /usr/lib/systemd/user/styxy-tcp.socket",
    "644 root /usr/lib/systemd/user/styxy.service",
    "644 root /usr/lib/systemd/user/styxy.socket",
    "644 root /usr/share/bash-completion/completions/styxy",
    "644 root /usr/share/dbus-1/interfaces/org.styxy.Styxy1.xml",
    "644 root /usr/share/dbus-1/services/org.styxy.Styxy1.service",
    "644 root /usr/share/doc/styxy/NEWS.Debian.gz",
    "644 root /usr/share/doc/styxy/README.md",
    "644 root /usr/share/doc/styxy/changelog.Debian.gz",
    "644 root /usr/share/doc/styxy/changelog.gz",
    "644 root /usr/share/doc/styxy/copyright",
    "644 root /usr/share/doc/styxy/examples/org.styxy.Styxy1.service",
    "644 root /usr/share/doc/styxy/examples/strict.conf",
    "644 root /usr/share/doc/styxy/grafana/styxy.json",
    "644 root /usr/share/doc/styxy/integrations/databases.md",
    "644 root /usr/share/doc/styxy/integrations/node/README.md",
    "644 root /usr/share/doc/styxy/integrations/node/index.d.ts",
    "644 root /usr/share/doc/styxy/integrations/node/index.js",
    "644 root /usr/share/doc/styxy/integrations/node/package.json",
    "644 root /usr/share/doc/styxy/integrations/pytest-styxy/README.md",
    "644 root /usr/share/doc/styxy/integrations/pytest-styxy/pyproject.toml",
    "644 root /usr/share/doc/styxy/integrations/pytest-styxy/pytest_styxy.py",
    "644 root /usr/share/doc/styxy/monitoring.md",
    "644 root /usr/share/doc/styxy/performance.md",
    "644 root /usr/share/doc/styxy/programs.md",
    "644 root /usr/share/doc/styxy/prometheus/styxy.rules.yml",
    "644 root /usr/share/doc/styxy/recipes.md",
    "644 root /usr/share/doc/styxy/third-party-notices.gz",
    "644 root /usr/share/fish/vendor_completions.d/styxy.fish",
    "644 root /usr/share/lintian/overrides/styxy",
    "644 root /usr/share/man/man1/styxy.1.gz",
    "644 root /usr/share/man/man5/org.styxy.Styxy1.5.gz",
    "644 root /usr/share/man/man5/styxy.json.5.gz",
    "644 root /usr/share/man/man5/styxy_config.5.gz",
    "644 root /usr/share/man/man7/styxy-http.7.gz",
    "644 root /usr/share/man/man7/styxy-recipes.7.gz",
    "644 root /usr/share/man/man7/styxy-remap.7.gz",
    "644 root /usr/share/man/man7/styxy-troubleshooting.7.gz",
    "644 root /usr/share/man/man8/styxy-portserver.socket.8.gz",
    "644 root /usr/share/man/man8/styxy-tcp.socket.8.gz",
    "644 root /usr/share/man/man8/styxy.service.8.gz",
    "644 root /usr/share/man/man8/styxy.socket.8.gz",
    "644 root /usr/share/styxy/config.schema.json",
    "644 root /usr/share/styxy/default.json",
    "644 root /usr/share/styxy/openapi.json",
    "644 root /usr/share/styxy/programs.json",
    "644 root /usr/share/styxy/project.schema.json",
    "644 root /usr/share/zsh/vendor-completions/_styxy",
    "755 root /usr/bin/styxy",
    "755 root /usr/lib/systemd/user-generators/styxy-generator",
];

const CURL: &str = "curl -sS --unix-socket $XDG_RUNTIME_DIR/styxy/http.sock http://localhost";

fn login(machine: &Machine) {
    assert_listens(machine);
    // Who comes later finds it, too.
    machine.script(["user", machine.name(), "eve"]).ok();
    let arguments = ["as", machine.name(), "eve", "--", "bash", "-c"];
    let command = format!("systemctl --user is-active styxy.socket && {CURL}/check/3000");
    let answer = machine.script(arguments.into_iter().chain([command.as_str()])).ok();
    let checked = answer.strip_prefix("active\n").unwrap_or_else(|| panic!("{answer}"));
    let checked: Json = serde_json::from_str(checked).unwrap();
    assert_eq!(checked["success"], true, "{answer}");
}

fn logged_in(machine: &Machine) {
    let (suite, _) = machine.name().split_once('-').unwrap();
    let machine = Machine::boot_without_package(suite, "package-comes-late");
    assert_eq!(machine.call("List", "'a{sv}' 0").unwrap_err().lines().count(), 1);
    machine.put(&package(), "/var/tmp/styxy.deb");
    machine.root("apt-get install -y /var/tmp/styxy.deb").ok();
    assert_listens(&machine);
}

/// The socket is there without a process, and both ways in lead to an answer.
#[track_caller]
fn assert_listens(machine: &Machine) {
    assert_eq!(machine.unit_state("styxy.socket"), "active");
    assert_eq!(machine.unit("styxy.socket", "UnitFileState"), "enabled");
    assert_eq!(machine.unit_state("styxy.service"), "inactive");
    assert_eq!(machine.user("pgrep -x styxy").code, Some(1));
    let modes = "cd $XDG_RUNTIME_DIR/styxy && stat -c '%A %U %n' . *";
    assert_eq!(
        machine.user(modes).ok(),
        "drwx------ dev .\nsrw------- dev http.sock\n-rw------- dev machine-network\n"
    );
    let answer = machine.user(&format!("{CURL}/check/3000")).ok();
    assert!(answer.contains("\"available\":true"), "{answer}");
    assert_eq!(machine.call("Allocate", "'sa{sv}' dev 0").unwrap()[0], 3000);
}

fn files_and_units(machine: &Machine) {
    let list =
        "dpkg -L styxy | while read -r f; do [ -f $f ] && stat -Lc '%a %U %n' $f; done | sort";
    let verbs = machine.user("STYXY_COMPLETE=1 styxy styxy ''").ok();
    let verbs = verbs.lines().map(|line| line.split('\t').next().unwrap());
    let pages: Vec<_> = verbs
        .filter(|verb| *verb != "help")
        .map(|verb| format!("644 root /usr/share/man/man1/styxy-{verb}.1.gz"))
        .collect();
    assert!(pages.len() > 15, "{pages:?}");
    let files = machine.root(list).ok();
    let (of_verbs, others): (Vec<_>, Vec<_>) =
        files.lines().partition(|file| file.contains("/man1/styxy-"));
    assert_eq!(BTreeSet::from_iter(of_verbs), pages.iter().map(String::as_str).collect());
    assert_eq!(others, FILES);
    assert_eq!(machine.root("dpkg --verify styxy").ok(), "");

    let verified =
        machine.user("systemd-analyze --user --man=no verify styxy.service styxy-failed.service styxy-login.service \
                      styxy.socket styxy-portserver.socket styxy-tcp.socket styxy-restart.service 2>&1");
    let verified = verified.ok();
    // systemd 254 and later know it.
    let lines = verified.lines().filter(|line| !line.contains("Unknown key 'RestartMode'"));
    assert_eq!(lines.collect::<Vec<_>>(), Vec::<&str>::new());
    machine.call("Check", "qs 3000 tcp").unwrap();
    for (property, value) in [
        ("FragmentPath", "/usr/lib/systemd/user/styxy.service"),
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("BusName", "org.styxy.Styxy1"),
        ("WatchdogUSec", "5min"),
        ("Restart", "on-failure"),
        ("StartLimitIntervalUSec", "0"),
        ("StateDirectory", "styxy/state"),
        ("StateDirectoryMode", "0700"),
        ("RuntimeDirectory", "styxy"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("ConfigurationDirectory", "styxy"),
        ("StatusText", "0 leases"),
    ] {
        assert_eq!(machine.unit("styxy.service", property), value, "{property}");
    }
    for (property, value) in [
        ("FragmentPath", "/usr/lib/systemd/user/styxy.socket"),
        ("Triggers", "styxy.service"),
        ("SocketMode", "0600"),
        ("DirectoryMode", "0700"),
        ("FileDescriptorName", "http"),
        ("UnitFilePreset", "enabled"),
    ] {
        assert_eq!(machine.unit("styxy.socket", property), value, "{property}");
    }
    for (unit, property) in [("service", "Requires"), ("service", "After")] {
        let units = machine.unit(&format!("styxy.{unit}"), property);
        assert!(units.split(' ').any(|unit| unit == "styxy.socket"), "{property}: {units}");
    }
}

fn introspection(machine: &Machine) {
    let file = "/usr/share/dbus-1/interfaces/org.styxy.Styxy1.xml";
    let well_formed = "import sys, xml.dom.minidom as dom; dom.parse(sys.argv[1])";
    machine.user(&format!("python3 -c '{well_formed}' {file}")).ok();
    let installed = machine.user(&format!("cat {file}")).ok();
    let introspect = "introspect org.styxy.Styxy1 /org/styxy/Styxy1";
    let answered = machine.user(&format!("busctl --user --xml-interface {introspect}")).ok();
    let (installed, answered) = (members(&installed), members(&answered));
    assert!(installed.contains_key(r#"method name="Allocate""#), "{installed:#?}");
    assert_eq!(installed, answered, "the file, and what the service answers");
}

/// The members of styxy's interface, each with its arguments and annotations.
fn members(xml: &str) -> BTreeMap<String, Vec<String>> {
    let mut parts = xml.split("<!--");
    let before = parts.next().unwrap_or_default().to_owned();
    let xml = parts.fold(before, |xml, part| xml + part.split_once("-->").unwrap().1);
    let (_, interface) = xml.split_once(r#"<interface name="org.styxy.Styxy1">"#).unwrap();
    let (interface, _) = interface.split_once("</interface>").unwrap();
    let mut members = BTreeMap::new();
    let mut member = String::new();
    for tag in interface.split('<').skip(1).filter(|tag| !tag.starts_with('/')) {
        let (tag, _) = tag.split_once('>').unwrap();
        // The order of attributes says nothing; there is no white space in one.
        let (element, attributes) = tag.trim_end_matches('/').split_once(' ').unwrap();
        let mut attributes: Vec<_> = attributes.split_whitespace().collect();
        attributes.sort_unstable();
        let tag = format!("{element} {}", attributes.join(" "));
        if ["method", "signal", "property"].contains(&element) {
            member.clone_from(&tag);
            members.insert(tag, Vec::new());
        } else {
            members.get_mut(&member).unwrap().push(tag);
        }
    }
    members
}

/// The folder of this machine in the state folder.
fn registry(machine: &Machine) -> String {
    let folders = machine.user(&format!("echo {}/*", state_folder(machine))).ok();
    let folder = folders.trim().to_owned();
    assert!(!folder.contains([' ', '*']), "there is one: {folder}");
    folder
}

fn another_user(machine: &Machine) {
    let lease = machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    machine.script(["user", machine.name(), "eve"]).ok();
    let eve =
        |command: &str| machine.script(["as", machine.name(), "eve", "--", "bash", "-c", command]);
    let runtime = machine.user("echo $XDG_RUNTIME_DIR").ok().trim().to_owned();
    let state = registry(machine);
    let curl = CURL.replace("$XDG_RUNTIME_DIR", &runtime) + "/allocations";
    let beside_the_state =
        format!("curl -sS --unix-socket {state}/http.sock http://localhost/allocations");
    let read = format!("cat {state}/log.*");
    let list = format!("ls {state}");
    let call = format!(
        "DBUS_SESSION_BUS_ADDRESS=unix:path={runtime}/bus busctl --user \
         call org.styxy.Styxy1 /org/styxy/Styxy1 org.styxy.Styxy1 List 'a{{sv}}' 0"
    );
    let attempts = [&curl, &beside_the_state, &read, &list, &call];
    let refused = || {
        for attempt in attempts {
            machine.user(attempt).ok();
            let done = eve(attempt);
            assert_ne!(done.code, Some(0), "{attempt}: {done:?}");
            assert_eq!(done.stdout, "", "{attempt}");
        }
    };
    refused();

    // Each of its own walls stands without those around it.
    machine
        .root(&format!(
            "folder={state}; while folder=${{folder%/*}}; [ \"$folder\" ]; do chmod o+rx $folder; done
             chmod o+rx {runtime}"
        ))
        .ok();
    refused();
    machine.root(&format!("chmod o+rx {runtime}/styxy")).ok();
    let done = eve(&curl);
    assert_ne!(done.code, Some(0), "the socket has a mode of its own: {done:?}");

    // What eve has is a service of her own.
    let own = eve("styxy allocate dev && journalctl -q -t styxy -o json").ok();
    assert!(!own.contains(lease[1].as_str().unwrap()), "{own}");
    let leases = machine.call("List", "'a{sv}' 0").unwrap();
    assert_eq!(leases[0].as_array().unwrap().len(), 1);
    assert_eq!(machine.events().len(), 1);
}

fn completion(machine: &Machine) {
    let ask = "STYXY_COMPLETE=1 styxy styxy release ''";
    for command in [ask, &format!("DBUS_SESSION_BUS_ADDRESS=unix:path=/nowhere {ask}")] {
        let answer = machine.user(command).ok();
        assert!(answer.lines().all(|line| line.starts_with('-')), "{answer}");
        assert_eq!(machine.unit_state("styxy.service"), "inactive", "{command}");
    }
    machine.call("Allocate", "'sa{sv}' dev 1 service_name s web").unwrap();
    let answers = |command: &str, answer: &str| {
        eventually(Duration::from_secs(60), answer, || machine.user(command).ok() == answer);
    };
    answers(ask, "3000\tdev web\n");
    let bash = "source /usr/share/bash-completion/completions/styxy
        compopt() { :; }
        COMP_LINE='styxy release 3' COMP_POINT=15 COMP_WORDS=(styxy release 3) COMP_CWORD=2
        _styxy styxy 3 release && echo \"${COMPREPLY[@]}\"";
    answers(bash, "3000\n");
}

fn sandbox(machine: &Machine) {
    machine.user("mkdir ~/.ssh && echo secret >~/.ssh/id && echo secret >~/notes").ok();
    machine.call("Allocate", "'sa{sv}' dev 0").unwrap();
    machine.user("echo secret >~/later && echo secret >/tmp/later").ok();
    let pid = machine.unit("styxy.service", "MainPID");

    let home = machine.root(&format!("ls -A /proc/{pid}/root/home/dev")).ok();
    let own = [".config", ".local"]; // the latter since systemd 254
    assert!(home.lines().all(|name| own.contains(&name)), "{home}");
    assert_eq!(machine.root(&format!("ls -A /proc/{pid}/root/tmp")).ok(), "");
    let runtime = machine.root(&format!("ls -A /proc/{pid}/root/run/user/1000")).ok();
    assert_eq!(runtime, "bus\nstyxy\nsystemd\n");

    let within = |command: &str| {
        let enter = format!("nsenter -t {pid} --user --mount --preserve-credentials");
        machine.user(&format!("{enter} bash -c '{command}'"))
    };
    within("test -w $XDG_RUNTIME_DIR/styxy && test -w ~/.config/styxy").ok();
    for command in
        ["cat ~/.ssh/id", "cat ~/notes", "touch ~/new", "touch /usr/new", "test -e /run/dbus"]
    {
        let done = within(command);
        assert_eq!(done.code, Some(1), "{command}: {done:?}");
    }
    // What somebody can write cannot be executed.
    for folder in ["$XDG_RUNTIME_DIR/styxy", "~/.config/styxy", "/tmp", "/var/tmp", "/dev/shm"] {
        let done = within(&format!("cp /usr/bin/true {folder}/mine && {folder}/mine"));
        assert!(done.stderr.contains("Permission denied"), "{folder}: {done:?}");
    }
    // Programs that a package replaces can be executed as before.
    machine
        .root("cp -a /usr/bin/journalctl /usr/bin/new && mv /usr/bin/new /usr/bin/journalctl")
        .ok();
    within("/usr/bin/journalctl --version").ok();

    let status = machine.root(&format!("cat /proc/{pid}/status")).ok();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let rating = machine.user("systemd-analyze --user security --no-pager styxy.service").ok();
    let (_, exposure) = rating.rsplit_once("exposure level for styxy.service: ").unwrap();
    let exposure: f32 = exposure.split(' ').next().unwrap().parse().unwrap();
    assert!(exposure <= 1.8, "{rating}");
}

/// Upgrades to version 99, which is the same program, in `/var/tmp/newer.deb`.
pub fn install_newer(machine: &Machine) {
    machine
        .root(
            "cd /var/tmp && dpkg-deb -R styxy*.deb newer
             sed -i 's/^Version:.*/Version: 99/' newer/DEBIAN/control
             dpkg-deb -Znone -b newer newer.deb && apt-get install -y ./newer.deb",
        )
        .ok();
}

fn upgrade(machine: &Machine) {
    let leases = || machine.call("List", "'a{sv}' 0").unwrap();
    machine.call("Allocate", "'sa{sv}' dev 1 service_name s web").unwrap();
    let before = leases();
    let pid = machine.unit("styxy.service", "MainPID");
    install_newer(machine);
    assert_eq!(machine.root("dpkg-query -W -f '${Version}' styxy").ok(), "99");
    assert_eq!(machine.unit_state("styxy.service"), "active");
    assert_ne!(machine.unit("styxy.service", "MainPID"), pid, "the new version runs");
    assert_eq!(leases(), before);

    // What does not run is not started by an upgrade.
    machine.user("systemctl --user stop styxy.service").ok();
    machine.root("apt-get install -y --reinstall /var/tmp/newer.deb").ok();
    assert_eq!(machine.unit_state("styxy.service"), "inactive");
    assert_eq!(machine.unit_state("styxy.socket"), "active");
    assert_eq!(leases(), before);
}

/// A client that leases two ports and releases one of them, again and again, until the upgrade is over.
const CLIENT: &str = r#"
for ((i = 0; i < 400; i++)); do
    [[ ! -e /tmp/upgraded ]] || exit 0
    kept=$($way styxy allocate dev --new --ttl 1h) && echo $kept >>/tmp/kept || echo "allocate: $?" >>/tmp/failed
    let_go=$($way styxy allocate dev --new --ttl 1h) && $way styxy release $let_go >/dev/null || echo "release: $?" >>/tmp/failed
    [[ $i != 0 ]] || echo once >>/tmp/begun
done"#;

fn upgrade_under_way(machine: &Machine) {
    machine.configure(r#"{"service_types": {"dev": {"port_range": [20000, 27999]}}}"#);
    let ways = ["", "env -u DBUS_SESSION_BUS_ADDRESS"];
    let start = |way: &str| machine.start(&format!("way='{way}'; {CLIENT}"));
    let clients: Vec<_> = ways.into_iter().cycle().take(8).map(start).collect();
    eventually(Duration::from_secs(60), "all clients have begun", || {
        machine.user("wc -l </tmp/begun").stdout == "8\n"
    });
    let pid = machine.unit("styxy.service", "MainPID");
    install_newer(machine);
    assert_ne!(machine.unit("styxy.service", "MainPID"), pid, "the new version runs");
    machine.user("touch /tmp/upgraded").ok();
    for mut client in clients {
        assert!(client.wait().unwrap().success());
    }
    assert_eq!(machine.user("cat /tmp/failed").stdout, "");
    let kept = machine.user("cat /tmp/kept").ok();
    let mut kept: Vec<u64> = kept.lines().map(|port| port.parse().unwrap()).collect();
    let listed: Json = serde_json::from_str(&machine.user("styxy list --json").ok()).unwrap();
    let leases = listed["leases"].as_array().unwrap().iter();
    let mut leased: Vec<_> = leases.map(|lease| lease["port"].as_u64().unwrap()).collect();
    kept.sort_unstable();
    leased.sort_unstable();
    assert_eq!(leased, kept);
    assert!(kept.len() >= 8, "{kept:?}");
}

fn hindered(machine: &Machine) {
    machine.root("mkdir /root/theirs && touch /root/theirs/tcp-for-pages").ok();
    // Nor can root's group be made to delete what only it may.
    machine.root("chmod 711 /root && chmod 770 /root/theirs").ok();
    machine.script(["user", machine.name(), "eve"]).ok();
    let eve = |command: &str| {
        machine.script(["as", machine.name(), "eve", "--", "bash", "-c", command]).ok()
    };
    // What the package removes there is a folder, and another file of root's.
    eve("rm -rf $XDG_RUNTIME_DIR/styxy; mkdir -p $XDG_RUNTIME_DIR/styxy/machine-network");
    eve("cd $XDG_RUNTIME_DIR && mv styxy before && ln -s /root/theirs styxy");
    let stopped = "kill -STOP $(systemctl show -P MainPID user@$(id -u eve).service)";
    machine.root(stopped).ok();
    let start = Instant::now();
    machine.root("apt-get remove -y styxy").ok();
    assert!(start.elapsed() < Duration::from_secs(90), "{:?}", start.elapsed());
    assert_eq!(machine.root("ls /root/theirs").ok(), "tcp-for-pages\n");
    assert_eq!(machine.user("ls -A $XDG_RUNTIME_DIR/styxy").ok(), "");
    let start = Instant::now();
    machine.root("apt-get install -y /var/tmp/styxy*.deb").ok();
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
    assert_listens(machine);
}

fn whole_life(machine: &Machine) {
    machine.script(["user", machine.name(), "eve"]).ok();
    let eve =
        |command: &str| machine.script(["as", machine.name(), "eve", "--", "bash", "-c", command]);
    eve("systemctl --user mask --now styxy.socket").ok();
    machine.call("Allocate", "'sa{sv}' dev 1 service_name s web").unwrap();
    let leases = || machine.call("List", "'a{sv}' 0").unwrap();
    let before = leases();
    let good = |version: &str| {
        let installed = machine.root("dpkg-query -W -f '${Version}' styxy").ok();
        assert!(installed.starts_with(version), "{installed}");
        assert_eq!(machine.unit_state("styxy.socket"), "active", "{version}");
        assert_eq!(leases(), before, "{version}");
        let masked = "systemctl --user is-enabled styxy.socket; systemctl --user is-active styxy.socket styxy.service";
        assert_eq!(eve(masked).stdout, "masked\ninactive\ninactive\n", "{version}");
        assert_eq!(machine.root("pgrep -u eve -x styxy").code, Some(1), "{version}");
    };
    install_newer(machine);
    good("99");
    machine.root("apt-get install -y --allow-downgrades /var/tmp/styxy*.deb").ok();
    good("2");
    machine.root("apt-get remove -y styxy && apt-get install -y /var/tmp/newer.deb").ok();
    good("99");
    machine.root("apt-get purge -y styxy && apt-get install -y /var/tmp/styxy*.deb").ok();
    good("2");
}

fn purge(machine: &Machine) {
    let leases = || machine.call("List", "'a{sv}' 0");
    machine.call("Allocate", "'sa{sv}' dev 1 service_name s web").unwrap();
    let before = leases().unwrap();
    let state = registry(machine);
    let files = || machine.user(&format!("cd {state} && sha256sum *")).ok();
    let gone = || {
        assert_eq!(machine.root("pgrep -x styxy").code, Some(1), "it still runs");
        assert_eq!(machine.user("ls -A $XDG_RUNTIME_DIR/styxy").ok(), "");
        let error = leases().unwrap_err();
        assert!(error.contains("not provided by any .service files"), "{error}");
    };

    machine.root("apt-get remove -y styxy").ok();
    gone();
    let kept = files();
    assert!(kept.contains("log."), "{kept}");
    machine.root("apt-get purge -y styxy").ok();
    gone();
    assert_eq!(files(), kept);
    let found = "find / -xdev -iname '*styxy*' -not -path '/var/tmp/*' -not -path '/home/*' \
                 -not -path '/proc/*' -not -path '/sys/*'";
    assert_eq!(machine.root(found).ok(), "");

    machine.root("apt-get install -y /var/tmp/styxy*.deb").ok();
    assert_eq!(machine.unit_state("styxy.socket"), "active");
    assert_eq!(leases().unwrap(), before);
    assert_ne!(before, json!([[]]));
}
