//! Checks against the CPU that runs the tests would need unsafe code; these are the manual's definitions, by hand.

use iced_x86::{Decoder, DecoderOptions};
use proptest::prelude::*;

use super::*;

fn operation(code: &[u8]) -> Option<Operation> {
    Operation::of(&Decoder::with_ip(64, code, 0, DecoderOptions::NONE).decode())
}

fn registers() -> Registers {
    let gprs = Gprs {
        rax: 0x1122_3344_5566_7788,
        rcx: 0xffff_ffff_ffff_fff0,
        r9: 5,
        ..Default::default()
    };
    Registers {
        gprs,
        rsp: 0x7000,
        rflags: 2,
    }
}

/// Run `code` with `memory`; the new value of memory, and the registers.
fn run(code: &[u8], memory: u64) -> (Option<u64>, Registers) {
    let mut registers = registers();
    let result = operation(code).expect("emulated").execute(&mut registers, memory);
    (result, registers)
}

#[test]
fn loads_of_all_sizes() {
    // mov eax, [rdi]: the upper half is cleared.
    assert_eq!(run(&[0x8b, 0x07], 0xffff_ffff_8000_0001).1.gprs.rax, 0x8000_0001);
    // mov rax, [rdi]
    assert_eq!(
        run(&[0x48, 0x8b, 0x07], 0x8000_0000_0000_0001).1.gprs.rax,
        0x8000_0000_0000_0001
    );
    // mov ax, [rdi]
    assert_eq!(
        run(&[0x66, 0x8b, 0x07], 0xffff_1234).1.gprs.rax,
        0x1122_3344_5566_1234
    );
    // mov ah, [rdi]
    assert_eq!(run(&[0x8a, 0x27], 0xab).1.gprs.rax, 0x1122_3344_5566_ab88);
    // movzx eax, byte [rdi]; movsx rax, byte [rdi]; movsxd rax, dword [rdi]
    assert_eq!(run(&[0x0f, 0xb6, 0x07], 0xfff0).1.gprs.rax, 0xf0);
    assert_eq!(
        run(&[0x48, 0x0f, 0xbe, 0x07], 0xf0).1.gprs.rax,
        0xffff_ffff_ffff_fff0
    );
    assert_eq!(
        run(&[0x48, 0x63, 0x07], 0x8000_0000).1.gprs.rax,
        0xffff_ffff_8000_0000
    );
    // movsx ax, byte [rdi]: only 16 bits are written.
    assert_eq!(
        run(&[0x66, 0x0f, 0xbe, 0x07], 0x80).1.gprs.rax,
        0x1122_3344_5566_ff80
    );
    // mov esp, [rdi]
    let code = [0x8b, 0x27];
    assert!(operation(&code).expect("emulated").writes_rsp());
    assert_eq!(run(&code, 0x1234).1.rsp, 0x1234);
}

#[test]
fn stores_do_not_read() {
    // mov [rdi], eax; mov [rdi], ah; mov dword [rdi], -2; mov qword [rdi], -2
    for (code, value) in [
        (&[0x89, 0x07][..], 0x5566_7788),
        (&[0x88, 0x27], 0x77),
        (&[0xc7, 0x07, 0xfe, 0xff, 0xff, 0xff], 0xffff_fffe),
        (&[0x48, 0xc7, 0x07, 0xfe, 0xff, 0xff, 0xff], 0xffff_ffff_ffff_fffe),
    ] {
        assert!(!operation(code).expect("emulated").reads());
        assert_eq!(run(code, 0).0, Some(value), "{code:x?}");
    }
}

#[test]
fn exchange_goes_both_ways() {
    // xchg [rdi], r9d, as Linux writes the local APIC with an erratum.
    let (memory, registers) = run(&[0x44, 0x87, 0x0f], 7);
    assert_eq!((memory, registers.gprs.r9), (Some(5), 7));
}

#[test]
fn arithmetic_results_and_flags() {
    // and dword [rdi], 0x0f
    let (memory, registers) = run(&[0x83, 0x27, 0x0f], 0xf0);
    assert_eq!(
        (memory, registers.rflags),
        (Some(0), 2 | flag::ZERO | flag::PARITY)
    );
    // or dword [rdi], 0xffffff80: an 8-bit constant with its sign
    assert_eq!(run(&[0x83, 0x0f, 0x80], 1).0, Some(0xffff_ff81));
    // test byte [rdi], 0x80
    let (memory, registers) = run(&[0xf6, 0x07, 0x80], 0x80);
    assert_eq!((memory, registers.rflags), (None, 2 | flag::SIGN));
    // cmp dword [rdi], eax: equal
    assert_eq!(
        run(&[0x39, 0x07], 0x5566_7788).1.rflags & flag::ARITHMETIC,
        flag::ZERO | flag::PARITY
    );
    // cmp eax, [rdi]: below
    let flags = run(&[0x3b, 0x07], 0x6000_0000).1.rflags;
    assert_eq!(
        flags & (flag::CARRY | flag::SIGN | flag::OVERFLOW),
        flag::CARRY | flag::SIGN
    );
    // xor rax, [rdi]
    assert_eq!(run(&[0x48, 0x33, 0x07], 0x1122_3344_5566_7788).1.gprs.rax, 0);
}

#[test]
fn what_is_not_emulated_is_refused() {
    // push [rdi]; movups xmm0, [rdi]; call [rdi]; lea rax, [rdi]; mov eax, ecx; stosb; bt [rdi], eax
    for code in [
        &[0xff, 0x37][..],
        &[0x0f, 0x10, 0x07],
        &[0xff, 0x17],
        &[0x48, 0x8d, 0x07],
        &[0x89, 0xc8],
        &[0xaa],
        &[0x0f, 0xa3, 0x07],
    ] {
        assert_eq!(operation(code), None, "{code:x?}");
    }
}

proptest! {
    /// Carry and overflow are what wider arithmetic says.
    #[test]
    fn add_and_sub_flags(a: u32, b: u32) {
        let of = |code: [u8; 2]| {
            let mut registers = registers();
            registers.gprs.rax = b.into();
            let result = operation(&code).expect("emulated").execute(&mut registers, a.into()).expect("written");
            (result as u32, registers.rflags & flag::CARRY != 0, registers.rflags & flag::OVERFLOW != 0)
        };
        let (sum, carry) = a.overflowing_add(b);
        prop_assert_eq!(of([0x01, 0x07]), (sum, carry, (a as i32).overflowing_add(b as i32).1));
        let (difference, borrow) = a.overflowing_sub(b);
        prop_assert_eq!(of([0x29, 0x07]), (difference, borrow, (a as i32).overflowing_sub(b as i32).1));
    }

    /// No bytes make the decoder or the emulation panic.
    #[test]
    fn any_bytes(code: [u8; 15], memory: u64) {
        if let Some(operation) = operation(&code) {
            operation.execute(&mut registers(), memory);
        }
    }
}
