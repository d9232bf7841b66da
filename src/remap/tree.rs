//! The process of the supervisor: it starts the command, answers its calls, and waits for everything that it has left.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{self, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use command_fds::CommandFdExt;
use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout},
};
use rustix::process::set_child_subreaper;

use super::{
    VARIABLE,
    control::{Channel, Refusal, Said, Status, Task},
    filter::Scope,
    start,
    supervisor::{Service, Supervisor, is_over},
    table::Table,
};
use crate::kernel::{
    detach::{close_inherited, withstand},
    ephemeral_ports,
    process::{comm, is_of},
};

/// The signals that a terminal, or whoever ends a group of processes, sends to the supervisor as well.
const WITHSTOOD: [Signal; 11] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGPIPE,
];

/// How long whatever is told to end may take.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(20);

/// Starts the command, and stays until everything that it has started has ended.
pub fn supervise<S: Service>(
    front: OwnedFd,
    command: &[OsString],
    service: impl FnOnce(&Task) -> S,
) -> Result<(), io::Error> {
    // It is executed by the name of a link in /proc.
    let _ = rustix::thread::set_name(c"styxy");
    withstand(WITHSTOOD);
    // The front has blocked them until now.
    SigSet::from_iter(WITHSTOOD).thread_unblock()?;
    let front = Arc::new(Channel::new(UnixStream::from(front)));
    let mut heard = front.heard::<Task>()?;
    let Some(task) = heard.next() else { return Ok(()) };
    set_child_subreaper(Some(rustix::process::getpid()))?;
    let refuse = |refusal: Refusal| {
        front.say(&Said::Refused(refusal));
        Ok(())
    };

    let mut table = Table::new(task.mode, task.reach.iter().copied(), ephemeral_ports());
    let mut service = service(&task);
    for named in &task.maps {
        match service.lease(named.protocol, named.asked) {
            Ok(mapping) => table.add(mapping),
            Err(why) => return refuse(Refusal::NoLease(why)),
        }
    }
    if let Some(mapping) = task.guarded {
        table.add(mapping);
    }
    // Threads that cannot be started are no problem as long as nothing runs.
    let (starting, started) = mpsc::channel();
    let (ending, ended) = mpsc::channel();
    let has_ended = Arc::new(AtomicBool::new(false));
    wait_for_command(started, ending, &front, &has_ended, task.kills)?;

    let scope = Scope {
        only_bind: task.guarded.is_some(),
        socket_name: task.lies,
        datagrams: table.has_datagrams(),
        rings: task.rings,
    };
    let (own, theirs) = UnixStream::pair()?;
    let child = spawn(theirs.into(), scope, &task, command)?;
    let pid = child.id();
    let own = Channel::new(own);
    let listener = match start::take(pid, &own) {
        Ok(listener) => listener,
        Err(refusal) => {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            return refuse(refusal);
        }
    };
    front.say(&Said::Started(pid));
    if let Err(number) = start::executed(&own) {
        front.say(&Said::NotExecuted(number));
        return Ok(());
    }
    let _ = starting.send(pid);
    let _ = let_go();
    end_with_the_front(heard, pid, has_ended)?;
    let end = end_with_the_tree(listener.try_clone()?, ended, service.give_back())?;
    Supervisor::new(listener, table, service, Arc::clone(&front))?.serve()?;
    // It does not return.
    let _ = end.join();
    Ok(())
}

/// Starts the process that becomes the command.
fn spawn(
    channel: OwnedFd,
    scope: Scope,
    task: &Task,
    command: &[OsString],
) -> Result<process::Child, io::Error> {
    use std::os::fd::AsRawFd;
    let number = channel.as_raw_fd();
    let mut prepared = Command::new("/proc/self/exe");
    prepared.arg0(name()).arg("remap-exec").arg(number.to_string());
    prepared.arg(serde_json::to_string(&scope).unwrap_or_default());
    prepared.arg("--").args(command).preserved_fds(vec![channel]);
    if task.guarded.is_none() {
        prepared.env(VARIABLE, &task.project);
    }
    prepared.spawn()
}

/// How this program was called.
pub(super) fn name() -> OsString {
    env::args_os().next().unwrap_or_else(|| OsStr::new("styxy").to_owned())
}

/// Lets go of what the command has inherited as well: whoever waits for the end of a pipe waits for the command only.
fn let_go() -> io::Result<()> {
    close_inherited()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    env::set_current_dir("/")
}

/// Waits, in a thread, for the command, and for what it leaves, which the kernel makes children of this process.
fn wait_for_command(
    started: mpsc::Receiver<u32>,
    ending: mpsc::Sender<()>,
    front: &Arc<Channel>,
    has_ended: &Arc<AtomicBool>,
    kills: bool,
) -> io::Result<()> {
    let (front, has_ended) = (Arc::clone(front), Arc::clone(has_ended));
    let wait = move || {
        let Ok(command) = started.recv() else { return };
        let command = Pid::from_raw(command.cast_signed());
        loop {
            let status = match waitpid(None, None) {
                Ok(WaitStatus::Exited(pid, code)) if pid == command => Status::Exited(code),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => {
                    Status::Killed(signal as i32)
                }
                Ok(_) | Err(Errno::EINTR) => continue,
                // Nothing is left.
                Err(_) => return,
            };
            has_ended.store(true, Ordering::SeqCst);
            if kills {
                end_all();
            }
            front.say(&Said::Ended { status, left: left() });
            let _ = ending.send(());
        }
    };
    thread::Builder::new().name("wait".to_owned()).spawn(wait)?;
    Ok(())
}

/// Ends this process when no process has the filter any more. Its children are not counted: a service that it had to start is one,
/// too.
fn end_with_the_tree(
    listener: OwnedFd,
    ended: mpsc::Receiver<()>,
    give_back: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    let wait = move || {
        while !is_over(&listener, None) {}
        // The front is told how the command has ended before it is alone.
        let _ = ended.recv();
        give_back();
        process::exit(0);
    };
    thread::Builder::new().name("tree".to_owned()).spawn(wait)
}

/// Ends the command if the front is killed.
fn end_with_the_front(
    mut heard: impl Iterator<Item = Task> + Send + 'static,
    command: u32,
    has_ended: Arc<AtomicBool>,
) -> io::Result<()> {
    let wait = move || {
        while heard.next().is_some() {}
        if !has_ended.load(Ordering::SeqCst) {
            let _ = kill(Pid::from_raw(command.cast_signed()), Signal::SIGTERM);
        }
    };
    thread::Builder::new().name("front".to_owned()).spawn(wait)?;
    Ok(())
}

/// The processes that live, with their names.
fn left() -> Vec<(u32, String)> {
    let own = process::id();
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let all = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let left = all.filter(|pid| *pid != own && is_of(*pid, own));
    left.filter_map(|pid| Some((pid, comm(pid)?.to_string()))).collect()
}

/// Ends everything that is left.
fn end_all() {
    let send = |signal| {
        let all = left();
        for (pid, _) in &all {
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
        let _ = waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        !all.is_empty()
    };
    let mut is_any = send(Signal::SIGTERM);
    let end = Instant::now();
    while is_any && end.elapsed() < PATIENCE {
        thread::sleep(AGAIN);
        while matches!(
            waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)),
            Ok(status) if status != WaitStatus::StillAlive
        ) {}
        is_any = !left().is_empty();
    }
    // Those that are left start no others from then on.
    while send(Signal::SIGKILL) {
        thread::sleep(AGAIN);
    }
}
