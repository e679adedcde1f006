//! What an exit code means: a pure function from the raw fields of the VMCB to [`Exit`] (APM vol. 2, appendix C).

use crate::arch::{Access, EntryFailure, Event, Exit, IoAccess, IoDirection, NestedFault};
use crate::types::Gpa;

use super::inject;

/// Exit codes that the back end itself acts upon.
pub mod code {
    #![expect(missing_docs, reason = "the manual's own names, appendix C")]
    pub const EXCEPTION_DB: u64 = 0x41;
    pub const EXCEPTION_MC: u64 = 0x52;
    pub const NMI: u64 = 0x61;
    pub const VINTR: u64 = 0x64;
    pub const IRET: u64 = 0x74;
    pub const IOIO: u64 = 0x7b;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMMCALL: u64 = 0x81;
}

/// The fields that describe one exit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw {
    /// EXITCODE.
    pub code: u64,
    /// EXITINFO1.
    pub info1: u64,
    /// EXITINFO2.
    pub info2: u64,
    /// EXITINTINFO.
    pub int_info: u64,
}

/// Decode. Codes of intercepts that are never set come out as [`Exit::Unknown`].
#[inline]
pub fn decode(raw: Raw) -> Exit {
    match raw.code {
        code::VMMCALL => Exit::Hypercall,
        0x60 => Exit::HostInterrupt(None),
        code::IOIO => Exit::Io(io(raw.info1)),
        0x400 => Exit::NestedFault(nested_fault(raw.info1, raw.info2)),
        0x7c if raw.info1 == 0 => Exit::Rdmsr,
        0x7c => Exit::Wrmsr,
        0x72 => Exit::Cpuid,
        0x78 => Exit::Halt,
        _ => decode_rare(raw),
    }
}

#[cold]
fn decode_rare(raw: Raw) -> Exit {
    match raw.code {
        code::EXCEPTION_MC => Exit::MachineCheck,
        0x40..=0x5f => exception((raw.code - 0x40) as u8, raw.info1),
        0x14 | 0x18 | 0x65 => Exit::CrInstruction, // MOV to CR4 and CR8; selective write of CR0
        code::NMI => Exit::HostNmi,
        0x63 => Exit::HostInit,
        code::VINTR => Exit::InterruptWindow,
        0x6e | 0x87 => Exit::ReadTsc,
        0x6f => Exit::ForbiddenInstruction, // RDPMC
        0x73 | 0x7a | 0x80 | 0x82..=0x86 => Exit::UndefinedInstruction, // RSM, INVLPGA, VMRUN, VMLOAD .. SKINIT
        0x8a..=0x8c | 0x8e => Exit::UndefinedInstruction,               // MONITOR, MWAIT, RDPRU
        0x76 | 0x89 => Exit::CacheFlush,                                // INVD, WBINVD
        0x77 => Exit::Pause,
        0x7d => Exit::TaskSwitch {
            cause: inject::decode(raw.int_info).map(|event| event.kind),
        },
        code::SHUTDOWN => Exit::TripleFault,
        0x8d => Exit::Xsetbv,
        // VMEXIT_INVALID is -1; some CPUs and emulators write the low half only.
        u64::MAX | 0xffff_ffff => Exit::EntryFailed(EntryFailure::InvalidVmcb),
        code => Exit::Unknown {
            code,
            info: raw.info1,
        },
    }
}

/// EXITINFO1 of IOIO (APM vol. 2, 15.10.2). The address-size bits are not looked at: emulators lack them.
fn io(info: u64) -> IoAccess {
    IoAccess {
        port: (info >> 16) as u16,
        size: match info >> 4 & 7 {
            1 => 1,
            2 => 2,
            _ => 4,
        },
        direction: if info & 1 != 0 {
            IoDirection::In
        } else {
            IoDirection::Out
        },
        string: info & 4 != 0,
        rep: info & 8 != 0,
    }
}

/// EXITINFO1 and 2 of a nested page fault (APM vol. 2, 15.25.6).
fn nested_fault(error: u64, address: u64) -> NestedFault {
    NestedFault {
        gpa: Gpa(address),
        access: match error {
            e if e & 1 << 4 != 0 => Access::Execute,
            e if e & 1 << 1 != 0 => Access::Write,
            _ => Access::Read,
        },
        present: error & 1 != 0,
        gva: None,
        during_walk: error & 1 << 33 != 0,
    }
}

fn exception(vector: u8, info: u64) -> Exit {
    let has_error_code = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
    Exit::Exception(Event::exception(vector, has_error_code.then_some(info as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::EventKind;

    fn of(code: u64) -> Exit {
        decode(Raw {
            code,
            ..Raw::default()
        })
    }

    /// Every code that an intercept of `Vcpu::new` can cause, and the ones around it.
    #[test]
    fn every_code() {
        use Exit::*;
        let expected = [
            (0x14, CrInstruction),
            (0x18, CrInstruction),
            (0x60, HostInterrupt(None)),
            (0x61, HostNmi),
            (0x63, HostInit),
            (0x64, InterruptWindow),
            (0x65, CrInstruction),
            (0x6f, ForbiddenInstruction),
            (0x72, Cpuid),
            (0x73, UndefinedInstruction),
            (0x6e, ReadTsc),
            (0x87, ReadTsc),
            (0x76, CacheFlush),
            (0x77, Pause),
            (0x78, Halt),
            (0x7a, UndefinedInstruction),
            (0x7c, Rdmsr),
            (0x7d, TaskSwitch { cause: None }),
            (0x7f, TripleFault),
            (0x80, UndefinedInstruction),
            (0x81, Hypercall),
            (0x82, UndefinedInstruction),
            (0x83, UndefinedInstruction),
            (0x84, UndefinedInstruction),
            (0x85, UndefinedInstruction),
            (0x86, UndefinedInstruction),
            (0x89, CacheFlush),
            (0x8a, UndefinedInstruction),
            (0x8b, UndefinedInstruction),
            (0x8c, UndefinedInstruction),
            (0x8d, Xsetbv),
            (0x8e, UndefinedInstruction),
            (u64::MAX, EntryFailed(EntryFailure::InvalidVmcb)),
        ];
        for code in (0..0x40)
            .chain(0x60..0x7b)
            .chain(0x7c..0x400)
            .chain([0x401, u64::MAX, u64::MAX - 1])
        {
            let wanted = expected.iter().find(|(c, _)| *c == code);
            let wanted = wanted.map_or(Unknown { code, info: 0 }, |&(_, exit)| exit);
            assert_eq!(of(code), wanted, "{code:#x}");
        }
        assert_eq!(
            decode(Raw {
                code: 0x7c,
                info1: 1,
                ..Raw::default()
            }),
            Wrmsr
        );
    }

    #[test]
    fn exceptions_and_their_error_codes() {
        let at = |code, info1| {
            decode(Raw {
                code,
                info1,
                ..Raw::default()
            })
        };
        assert_eq!(at(0x41, 5), Exit::Exception(Event::exception(1, None)));
        assert_eq!(at(0x51, 0), Exit::Exception(Event::exception(17, Some(0))));
        assert_eq!(at(0x52, 9), Exit::MachineCheck);
    }

    /// As TCG (no address size) and Bochs (with) report the same OUT to COM1.
    #[test]
    fn port_io() {
        let at = |info1| {
            decode(Raw {
                code: code::IOIO,
                info1,
                ..Raw::default()
            })
        };
        let out = IoAccess {
            port: 0x3f8,
            size: 1,
            direction: IoDirection::Out,
            string: false,
            rep: false,
        };
        assert_eq!(at(0x03f8_0010), Exit::Io(out));
        assert_eq!(at(0x03f8_0210), Exit::Io(out));
        let insw = IoAccess {
            port: 0xcf8,
            size: 2,
            direction: IoDirection::In,
            string: true,
            rep: true,
        };
        assert_eq!(at(0x0cf8_002d), Exit::Io(insw));
        assert_eq!(
            at(0x0cf8_0041),
            Exit::Io(IoAccess {
                size: 4,
                string: false,
                rep: false,
                ..insw
            })
        );
    }

    #[test]
    fn nested_faults() {
        let at = |info1| match decode(Raw {
            code: 0x400,
            info1,
            info2: 0xfee0_0020,
            int_info: 0,
        }) {
            Exit::NestedFault(fault) => (fault.gpa.0, fault.access, fault.present, fault.during_walk),
            other => panic!("{other:?}"),
        };
        assert_eq!(at(0x1_0000_0004), (0xfee0_0020, Access::Read, false, false));
        assert_eq!(at(0x1_0000_0007), (0xfee0_0020, Access::Write, true, false));
        assert_eq!(at(0x1_0000_0014), (0xfee0_0020, Access::Execute, false, false));
        assert_eq!(at(0x2_0000_0006), (0xfee0_0020, Access::Write, false, true));
    }

    #[test]
    fn task_switch_by_an_event() {
        let at = |int_info| {
            decode(Raw {
                code: 0x7d,
                int_info,
                ..Raw::default()
            })
        };
        assert_eq!(
            at(0x8000_0320),
            Exit::TaskSwitch {
                cause: Some(EventKind::HardwareException)
            }
        );
        assert_eq!(
            at(0x8000_0020),
            Exit::TaskSwitch {
                cause: Some(EventKind::ExternalInterrupt)
            }
        );
    }
}
