//! Each exit reason, from raw fields.

use super::*;
use crate::arch::Event;
use crate::arch::EventKind;
use std::collections::HashMap;
use std::vec::Vec;

/// Fields by encoding. Reading one that the case did not give is an error of the decoder.
struct Table(HashMap<u64, u64>);

impl Fields for Table {
    fn get<T: field::Width>(&self, field: field::Field<T>) -> T {
        let encoding = field.encoding();
        let value = self.0.get(&encoding);
        T::truncate(*value.unwrap_or_else(|| panic!("field {encoding:#x} has no meaning for this exit")))
    }
}

fn table(fields: &[(u64, u64)]) -> Table {
    Table(fields.iter().copied().collect())
}

const QUALIFICATION: u64 = field::EXIT_QUALIFICATION.encoding();
const INTERRUPTION: u64 = field::EXIT_INTERRUPTION.encoding();

fn run(basic: u16, fields: &[(u64, u64)]) -> Exit {
    decode(u32::from(basic), &table(fields), || {
        panic!("registers have no meaning for this exit")
    })
}

#[test]
fn reasons_without_details() {
    use reason::*;
    let cases = [
        (VMCALL, Exit::Hypercall),
        (TRIPLE_FAULT, Exit::TripleFault),
        (INIT, Exit::HostInit),
        (SIPI, Exit::HostInit),
        (INTERRUPT_WINDOW, Exit::InterruptWindow),
        (NMI_WINDOW, Exit::NmiWindow),
        (CPUID, Exit::Cpuid),
        (HLT, Exit::Halt),
        (RDPMC, Exit::ForbiddenInstruction),
        (RDMSR, Exit::Rdmsr),
        (WRMSR, Exit::Wrmsr),
        (PAUSE, Exit::Pause),
        (PREEMPTION_TIMER, Exit::PreemptionTimer),
        (RDTSC, Exit::ReadTsc),
        (RDTSCP, Exit::ReadTsc),
        (INVD, Exit::CacheFlush),
        (WBINVD, Exit::CacheFlush),
        (XSETBV, Exit::Xsetbv),
    ];
    for (basic, exit) in cases {
        assert_eq!(run(basic, &[]), exit, "reason {basic}");
    }
}

#[test]
fn a_virtual_local_apic() {
    use reason::*;
    let by = |basic, qualification| run(basic, &[(QUALIFICATION, qualification)]);
    assert_eq!(by(APIC_WRITE, 0x300), Exit::ApicWrite { offset: 0x300 });
    assert_eq!(by(VIRTUALIZED_EOI, 0x41), Exit::EndOfInterrupt { vector: 0x41 });
    let access = |kind: u64, access, during_walk| {
        let fault = NestedFault {
            gpa: Gpa(0xfee0_0390),
            access,
            present: false,
            gva: None,
            during_walk,
        };
        assert_eq!(
            by(APIC_ACCESS, kind << 12 | 0x390),
            Exit::NestedFault(fault),
            "{kind}"
        );
    };
    access(0, Access::Read, false);
    access(1, Access::Write, false);
    access(2, Access::Execute, false);
    access(3, Access::Write, false);
    access(10, Access::Write, true);
    access(15, Access::Write, true);
    assert!(may_interrupt_delivery(APIC_ACCESS));
    assert!(!may_interrupt_delivery(APIC_WRITE) && !may_interrupt_delivery(VIRTUALIZED_EOI));
}

#[test]
fn instructions_that_do_not_exist_for_guests() {
    let vmx: Vec<u16> = (19..=27).chain([11, 36, 39, 50, 53, 59, 60, 70]).collect();
    for basic in vmx {
        assert_eq!(run(basic, &[]), Exit::UndefinedInstruction, "reason {basic}");
    }
}

#[test]
fn exceptions_and_nmi() {
    assert_eq!(run(0, &[(INTERRUPTION, 0x8000_0202)]), Exit::HostNmi);
    assert_eq!(
        run(
            0,
            &[
                (INTERRUPTION, 0x8000_0b11),
                (field::EXIT_ERROR_CODE.encoding(), 0)
            ]
        ),
        Exit::Exception(Event::exception(17, Some(0)))
    );
    assert_eq!(
        run(0, &[(INTERRUPTION, 0x8000_0301), (QUALIFICATION, 0x4000)]),
        Exit::Exception(Event::exception(1, None))
    );
    let int1 = [
        (INTERRUPTION, 0x8000_0501),
        (field::EXIT_INSTRUCTION_LEN.encoding(), 1),
    ];
    assert_eq!(
        run(0, &int1),
        Exit::Exception(Event {
            kind: EventKind::PrivilegedSoftwareException,
            instruction_len: 1,
            ..Event::exception(1, None)
        })
    );
}

#[test]
fn host_interrupts() {
    assert_eq!(
        run(1, &[(INTERRUPTION, 0x8000_00f3)]),
        Exit::HostInterrupt(Some(0xf3))
    );
    assert_eq!(run(1, &[(INTERRUPTION, 0)]), Exit::HostInterrupt(None));
}

#[test]
fn ports() {
    let exit = |q| match run(30, &[(QUALIFICATION, q)]) {
        Exit::Io(access) => access,
        other => panic!("{other:?}"),
    };
    let out = IoAccess {
        port: 0x3f8,
        size: 1,
        direction: IoDirection::Out,
        string: false,
        rep: false,
    };
    assert_eq!(exit(0x03f8_0000), out);
    assert_eq!(
        exit(0x03f8_0008),
        IoAccess {
            direction: IoDirection::In,
            ..out
        }
    );
    assert_eq!(
        exit(0x03f8_0033),
        IoAccess {
            size: 4,
            string: true,
            rep: true,
            ..out
        }
    );
}

#[test]
fn nested_faults() {
    let gpa = (field::GUEST_PHYSICAL_ADDRESS.encoding(), 0xfee0_0020);
    let gva = (field::GUEST_LINEAR_ADDRESS.encoding(), 0x7000);
    let fault = |q, more: &[(u64, u64)]| {
        let fields: Vec<_> = [(QUALIFICATION, q), gpa].iter().chain(more).copied().collect();
        match run(48, &fields) {
            Exit::NestedFault(fault) => fault,
            other => panic!("{other:?}"),
        }
    };
    let read = NestedFault {
        gpa: Gpa(0xfee0_0020),
        access: Access::Read,
        present: false,
        gva: None,
        during_walk: false,
    };
    assert_eq!(fault(0x1, &[]), read);
    assert_eq!(
        fault(0x18a, &[gva]),
        NestedFault {
            access: Access::Write,
            present: true,
            gva: Some(Gva(0x7000)),
            ..read
        }
    );
    assert_eq!(
        fault(0x084, &[gva]),
        NestedFault {
            access: Access::Execute,
            gva: Some(Gva(0x7000)),
            during_walk: true,
            ..read
        }
    );
}

#[test]
fn control_registers() {
    let gprs = Gprs {
        rbx: 0xffff_ffff_8005_0033,
        r15: 15,
        ..Gprs::default()
    };
    let decode_in = |mode, q| {
        let fields = table(&[
            (QUALIFICATION, q),
            (field::GUEST_RSP.encoding(), 0x1234),
            (field::GUEST_CR0.encoding(), 0x8000_003b),
            (field::CR0_SHADOW.encoding(), 0x4000_0000),
            (field::CR0_MASK.encoding(), 0x6000_0020),
        ]);
        decode(28, &fields, || Guest { gprs: &gprs, mode })
    };
    use CpuMode::{Long, Protected32};
    assert_eq!(
        decode_in(Long, 0x300),
        Exit::CrWrite {
            cr: 0,
            value: 0xffff_ffff_8005_0033
        }
    );
    assert_eq!(
        decode_in(Protected32, 0x304),
        Exit::CrWrite {
            cr: 4,
            value: 0x8005_0033
        }
    );
    assert_eq!(decode_in(Long, 0x404), Exit::CrWrite { cr: 4, value: 0x1234 });
    assert_eq!(decode_in(Long, 0xf04), Exit::CrWrite { cr: 4, value: 15 });
    // CLTS: the shadow's CD shows, NE does not.
    assert_eq!(
        decode_in(Long, 0x20),
        Exit::CrWrite {
            cr: 0,
            value: 0xc000_0013
        }
    );
    // LMSW of 6 keeps PE.
    assert_eq!(
        decode_in(Long, 0x6_0030),
        Exit::CrWrite {
            cr: 0,
            value: 0xc000_0017
        }
    );
}

#[test]
fn failures_and_the_unknown() {
    assert_eq!(
        decode(1 << 31 | 33, &table(&[(QUALIFICATION, 4)]), || unreachable!()),
        Exit::EntryFailed(EntryFailure::GuestState {
            reason: 33,
            qualification: 4
        })
    );
    assert_eq!(
        run(37, &[(QUALIFICATION, 5)]),
        Exit::Unknown { code: 37, info: 5 }
    );
    let gpa = (field::GUEST_PHYSICAL_ADDRESS.encoding(), 0x9000);
    assert_eq!(
        run(49, &[gpa]),
        Exit::Unknown {
            code: 49,
            info: 0x9000
        }
    );
}

/// Both ways are the machine's, not the guest's (SDM 3C 27.8).
#[test]
fn machine_checks() {
    assert_eq!(run(0, &[(INTERRUPTION, 0x8000_0312)]), Exit::MachineCheck);
    assert_eq!(
        decode(1 << 31 | 41, &table(&[]), || unreachable!()),
        Exit::MachineCheck
    );
}

#[test]
fn interrupted_deliveries() {
    let vectoring = field::IDT_VECTORING.encoding();
    let length = (field::EXIT_INSTRUCTION_LEN.encoding(), 2);
    assert_eq!(
        interrupted_event(&table(&[(vectoring, 0x8000_0041)])),
        Some(Event::interrupt(0x41))
    );
    let int80 = interrupted_event(&table(&[(vectoring, 0x8000_0480), length])).unwrap();
    assert_eq!(
        (int80.kind, int80.instruction_len),
        (EventKind::SoftwareInterrupt, 2)
    );
    assert_eq!(run(9, &[(vectoring, 0)]), Exit::TaskSwitch { cause: None });
    assert_eq!(
        run(9, &[(vectoring, 0x8000_0202)]),
        Exit::TaskSwitch {
            cause: Some(EventKind::Nmi)
        }
    );
}

#[test]
fn nmi_blocking_comes_back_after_a_faulting_iret() {
    let vectoring = field::IDT_VECTORING.encoding();
    let case =
        |basic, key, value, idt| nmi_unblocked_by_iret(basic, &table(&[(key, value), (vectoring, idt)]));
    assert!(case(48, QUALIFICATION, 0x1001, 0));
    assert!(!case(48, QUALIFICATION, 0x0001, 0));
    assert!(!case(48, QUALIFICATION, 0x1001, 0x8000_0202));
    assert!(case(0, INTERRUPTION, 0x8000_1b11, 0));
    assert!(!case(0, INTERRUPTION, 0x8000_1b08, 0));
    assert!(!case(10, QUALIFICATION, 0x1000, 0));
}
