//! The seccomp filter of remapped programs, as a table of system calls, and the program for the kernel that is made of it
//! (seccomp(2), `Documentation/userspace-api/seccomp_filter.rst`).
//!
//! Programs of several architectures may run on one kernel, and number their system calls differently. A call that is in no
//! table is allowed, and so is every call of an architecture that is not known here.

use nix::libc::{
    BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, ENOSYS, SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO, SECCOMP_RET_USER_NOTIF, sock_filter,
};

use serde::{Deserialize, Serialize};

/// A system call that the filter knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `bind(2)`.
    Bind,
    /// `connect(2)`.
    Connect,
    /// `getsockname(2)`.
    SocketName,
    /// `sendto(2)`.
    SendTo,
    /// `sendmsg(2)`.
    SendMessage,
    /// `sendmmsg(2)`.
    SendMessages,
    /// `socketcall(2)`: all of these by one number, with the arguments in memory.
    Multiplexed,
    /// `io_uring_setup(2)`: what is done through a ring passes every filter.
    Ring,
}

/// What the filter leaves to the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option")]
pub struct Scope {
    /// Only calls of `bind`; nothing else is changed.
    pub only_bind: bool,
    /// Also `getsockname`, so that programs are told the port that they asked for.
    pub socket_name: bool,
    /// Also `sendto` and `sendmsg`, for UDP without `connect`.
    pub datagrams: bool,
    /// Whether `io_uring_setup` stays allowed.
    pub rings: bool,
}

/// The system calls of an architecture.
#[derive(Debug)]
pub struct Architecture {
    /// `AUDIT_ARCH_*` of `<linux/audit.h>`.
    pub audit: u32,
    /// The numbers of its calls.
    pub calls: &'static [(u32, Call)],
    /// Numbers from here on belong to another interface of the architecture: they are refused as unknown.
    pub foreign: Option<u32>,
}

/// `AUDIT_ARCH_X86_64`: `EM_X86_64`, 64 bits, little-endian.
const X86_64: u32 = 0xC000_0000 + 62;
/// `AUDIT_ARCH_I386`: `EM_386`, little-endian.
const I386: u32 = 0x4000_0000 + 3;
/// `AUDIT_ARCH_AARCH64`: `EM_AARCH64`, 64 bits, little-endian.
const AARCH64: u32 = 0xC000_0000 + 183;
/// `AUDIT_ARCH_ARM`: `EM_ARM`, little-endian.
const ARM: u32 = 0x4000_0000 + 40;

/// Every architecture whose programs may run on the supported ones. The numbers are those of `syscall_64.tbl`, `syscall_32.tbl`,
/// `asm-generic/unistd.h` and `arch/arm/tools/syscall.tbl` in the kernel's source.
pub const ARCHITECTURES: [Architecture; 4] = [
    Architecture {
        audit: X86_64,
        calls: &[
            (49, Call::Bind),
            (42, Call::Connect),
            (51, Call::SocketName),
            (44, Call::SendTo),
            (46, Call::SendMessage),
            (307, Call::SendMessages),
            (425, Call::Ring),
        ],
        // x32, which has numbers of its own.
        foreign: Some(0x4000_0000),
    },
    Architecture {
        audit: I386,
        calls: &[
            (361, Call::Bind),
            (362, Call::Connect),
            (367, Call::SocketName),
            (369, Call::SendTo),
            (370, Call::SendMessage),
            (345, Call::SendMessages),
            (102, Call::Multiplexed),
            (425, Call::Ring),
        ],
        foreign: None,
    },
    Architecture {
        audit: AARCH64,
        calls: &[
            (200, Call::Bind),
            (203, Call::Connect),
            (204, Call::SocketName),
            (206, Call::SendTo),
            (211, Call::SendMessage),
            (269, Call::SendMessages),
            (425, Call::Ring),
        ],
        foreign: None,
    },
    Architecture {
        audit: ARM,
        calls: &[
            (282, Call::Bind),
            (283, Call::Connect),
            (286, Call::SocketName),
            (290, Call::SendTo),
            (296, Call::SendMessage),
            (374, Call::SendMessages),
            (425, Call::Ring),
        ],
        foreign: None,
    },
];

/// The calls behind `socketcall(2)`, by its first argument (`<linux/net.h>`).
pub const MULTIPLEXED: [(u32, Call); 6] = [
    (2, Call::Bind),
    (3, Call::Connect),
    (6, Call::SocketName),
    (11, Call::SendTo),
    (16, Call::SendMessage),
    (20, Call::SendMessages),
];

/// The shortest address of IPv4, `struct sockaddr_in`, in bytes.
const SHORTEST: u32 = 16;
/// The length of a whole `struct sockaddr_un`, in bytes: what most programs pass for a Unix socket.
const UNIX: u32 = 110;

impl Scope {
    /// Whether the supervisor is asked about this call.
    fn notifies(self, call: Call) -> bool {
        match call {
            Call::Bind => true,
            Call::Connect => !self.only_bind,
            Call::SocketName => self.socket_name,
            Call::SendTo | Call::SendMessage | Call::SendMessages => self.datagrams,
            Call::Multiplexed | Call::Ring => false,
        }
    }

    /// The program for the kernel.
    pub fn program(self) -> Vec<sock_filter> {
        let mut program = vec![load(ARCH)];
        for architecture in &ARCHITECTURES {
            let block = self.block(architecture);
            program.push(unless_equal(architecture.audit, block.len()));
            program.extend(block);
        }
        program.push(ret(SECCOMP_RET_ALLOW));
        program
    }

    fn block(self, architecture: &Architecture) -> Vec<sock_filter> {
        let refused = || ret(SECCOMP_RET_ERRNO | ENOSYS.unsigned_abs());
        let mut block = vec![load(NUMBER)];
        if let Some(foreign) = architecture.foreign {
            block.extend([unless(BPF_JGE, foreign, 1), refused()]);
        }
        for (number, call) in architecture.calls {
            let verdict = match call {
                Call::Ring if !self.rings && !self.only_bind => vec![refused()],
                Call::Multiplexed => self.multiplexed(),
                Call::Connect if self.notifies(*call) => vec![
                    load(ARGUMENTS[2]),
                    // A Unix socket, and what cannot be an address: the kernel decides.
                    unless_equal(UNIX, 1),
                    ret(SECCOMP_RET_ALLOW),
                    unless(BPF_JGE, SHORTEST, 1),
                    ret(SECCOMP_RET_USER_NOTIF),
                    ret(SECCOMP_RET_ALLOW),
                ],
                _ if self.notifies(*call) => vec![ret(SECCOMP_RET_USER_NOTIF)],
                _ => continue,
            };
            block.push(unless_equal(*number, verdict.len()));
            block.extend(verdict);
        }
        block.push(ret(SECCOMP_RET_ALLOW));
        block
    }

    fn multiplexed(self) -> Vec<sock_filter> {
        let notified = MULTIPLEXED.iter().filter(|(_, call)| self.notifies(*call));
        let verdicts = notified
            .flat_map(|(number, _)| [unless_equal(*number, 1), ret(SECCOMP_RET_USER_NOTIF)]);
        std::iter::once(load(ARGUMENTS[0]))
            .chain(verdicts)
            .chain([ret(SECCOMP_RET_ALLOW)])
            .collect()
    }
}

/// Where `struct seccomp_data` has the number of the call, in bytes.
const NUMBER: u32 = 0;
/// Where it has the architecture.
const ARCH: u32 = 4;

/// Where it has the lower halves of the first arguments. All supported architectures are little-endian.
const ARGUMENTS: [u32; 3] = [16, 24, 32];

/// Loads a word of `struct seccomp_data`.
fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, 0, offset)
}

/// Ends with a verdict.
fn ret(verdict: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, 0, verdict)
}

/// Skips the next instructions unless the word is equal.
fn unless_equal(value: u32, skip: usize) -> sock_filter {
    unless(BPF_JEQ, value, skip)
}

fn unless(test: u32, value: u32, skip: usize) -> sock_filter {
    // No block is that long: a test runs every program.
    instruction(BPF_JMP | test | BPF_K, u8::try_from(skip).unwrap_or(u8::MAX), value)
}

fn instruction(code: u32, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTIFY: u32 = SECCOMP_RET_USER_NOTIF;
    const ALLOW: u32 = SECCOMP_RET_ALLOW;
    #[allow(clippy::cast_sign_loss)]
    const UNKNOWN: u32 = SECCOMP_RET_ERRNO | ENOSYS as u32;

    /// Runs a program as the kernel does.
    fn verdict(
        program: &[sock_filter],
        architecture: u32,
        number: u32,
        arguments: [u64; 6],
    ) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(architecture.to_le_bytes());
        data.extend(0_u64.to_le_bytes());
        arguments.iter().for_each(|argument| data.extend(argument.to_le_bytes()));
        let (mut at, mut word) = (0, 0_u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            let code = u32::from(code);
            at += 1;
            let jump = |is_met: bool| usize::from(if is_met { jt } else { jf });
            match code {
                _ if code == BPF_LD | BPF_W | BPF_ABS => {
                    let place = usize::try_from(k).unwrap();
                    word = u32::from_le_bytes(data[place..place + 4].try_into().unwrap());
                }
                _ if code == BPF_JMP | BPF_JEQ | BPF_K => at += jump(word == k),
                _ if code == BPF_JMP | BPF_JGE | BPF_K => at += jump(word >= k),
                _ if code == BPF_RET | BPF_K => return k,
                other => panic!("the kernel has no such instruction: {other:#x}"),
            }
        }
    }

    const PLAIN: Scope =
        Scope { only_bind: false, socket_name: false, datagrams: false, rings: false };

    #[test]
    fn every_call_of_every_architecture_gets_the_verdict_of_the_table() {
        let scopes = (0..16_u8).map(|bits| Scope {
            only_bind: bits & 1 != 0,
            socket_name: bits & 2 != 0,
            datagrams: bits & 4 != 0,
            rings: bits & 8 != 0,
        });
        for scope in scopes {
            let program = scope.program();
            assert!(program.len() < 200, "{}", program.len());
            for architecture in &ARCHITECTURES {
                for number in (0..600).chain([0x4000_0000 + 42, 0x4000_0000 + 49, u32::MAX]) {
                    let known = architecture.calls.iter().find(|(known, _)| *known == number);
                    let is_foreign = architecture.foreign.is_some_and(|foreign| number >= foreign);
                    for length in [0, 2, 15, 16, 24, 28, 109, 110, 111, 128, u64::MAX] {
                        let arguments = [3, 0x7000_0000, length, 0, 0, 0];
                        let expected = match known {
                            _ if is_foreign => UNKNOWN,
                            Some((_, Call::Ring)) if !scope.rings && !scope.only_bind => UNKNOWN,
                            Some((_, Call::Connect)) if !scope.only_bind => {
                                let is_one = length != 110 && length & 0xFFFF_FFFF >= 16;
                                if is_one { NOTIFY } else { ALLOW }
                            }
                            // Its first argument is 3, connect.
                            Some((_, Call::Multiplexed)) if !scope.only_bind => NOTIFY,
                            Some((_, call)) if scope.notifies(*call) => NOTIFY,
                            _ => ALLOW,
                        };
                        let found = verdict(&program, architecture.audit, number, arguments);
                        assert_eq!(found, expected, "{scope:?} {architecture:?} {number} {length}");
                    }
                }
            }
            // Every call of an architecture that is not known.
            assert!((0..600).all(|number| verdict(&program, 22, number, [0; 6]) == ALLOW));
        }
    }

    #[test]
    fn what_is_multiplexed_is_told_apart_by_the_first_argument() {
        for scope in [PLAIN, Scope { socket_name: true, datagrams: true, ..PLAIN }] {
            let program = scope.program();
            for first in 0..30 {
                let known = MULTIPLEXED.iter().find(|(number, _)| u64::from(*number) == first);
                let expected = known.is_some_and(|(_, call)| scope.notifies(*call));
                let found = verdict(&program, I386, 102, [first, 0x7000_0000, 0, 0, 0, 0]);
                assert_eq!(found == NOTIFY, expected, "{scope:?} {first}");
            }
        }
    }

    #[test]
    fn the_numbers_are_those_of_this_architecture() {
        use nix::libc;
        let audit = if cfg!(target_arch = "x86_64") { X86_64 } else { AARCH64 };
        let here = ARCHITECTURES.iter().find(|known| known.audit == audit).unwrap();
        let numbers = [
            (libc::SYS_bind, Call::Bind),
            (libc::SYS_connect, Call::Connect),
            (libc::SYS_getsockname, Call::SocketName),
            (libc::SYS_sendto, Call::SendTo),
            (libc::SYS_sendmsg, Call::SendMessage),
            (libc::SYS_sendmmsg, Call::SendMessages),
            (libc::SYS_io_uring_setup, Call::Ring),
        ];
        let numbers = numbers.map(|(number, call)| (u32::try_from(number).unwrap(), call));
        assert_eq!(here.calls, numbers);
    }
}
