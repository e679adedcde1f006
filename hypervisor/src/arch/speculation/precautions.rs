//! What the world switches of both back ends do against speculation, and when: before the first return or indirect
//! branch after an exit, whose target a guest could have chosen, and behind the last one before an entry. So it is
//! assembler, in their midst. Where a CPU needs none of it, and the guest has no SPEC_CTRL of its own, they have a way
//! past all this.

use bitflags::bitflags;

use crate::hw::DATA_SEGMENT;

bitflags! {
    /// What is done. None of it changes anything but time.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Actions: u32 {
        /// Exits write PRED_CMD.IBPB.
        const IBPB = 1 << 0;
        /// Exits overwrite the return stack buffer: 32 calls, as no CPU has more entries that matter.
        const RSB = 1 << 1;
        /// Exits read SPEC_CTRL, which the guest has written without an exit.
        const READ_SPEC_CTRL = 1 << 2;
        /// Exits write the hypervisor's SPEC_CTRL, entries the guest's.
        const SPEC_CTRL = 1 << 3;
        /// Exits make a call, and wait for it: what is predicted next is no return of the guest's (Intel's "Post-barrier
        /// Return Stack Buffer Predictions").
        const CALL = 1 << 4;
        /// Exits take so many branches that the history of those before is lost (Intel's "Branch History Injection",
        /// the sequence for CPUs before Alder Lake; later ones have BHI_DIS_S).
        const BHB = 1 << 5;
        /// Entries execute VERW, at the very last, after which nothing of the hypervisor's is in the buffers.
        const VERW = 1 << 6;
        /// Entries divide (AMD's "Speculative Leaks Security Notice", CVE-2023-20588).
        const DIVIDE = 1 << 7;
    }
}

impl Actions {
    /// Those at exits.
    pub const AT_EXITS: Actions = Actions::IBPB
        .union(Actions::RSB)
        .union(Actions::READ_SPEC_CTRL)
        .union(Actions::SPEC_CTRL)
        .union(Actions::CALL)
        .union(Actions::BHB);
}

/// A vCPU's, as the assembler below knows them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Precautions {
    /// What is done.
    pub actions: Actions,
    /// The hypervisor's SPEC_CTRL. The upper half of the register is reserved.
    pub hosts: u32,
    /// What SPEC_CTRL has while the guest runs, if it is written at entries.
    pub guests: u32,
}

impl Precautions {
    /// The guest writes SPEC_CTRL. The hypervisor's value does for it if that has all bits that it wants: a kernel that
    /// sets IBRS once, as enhanced IBRS demands, then costs nothing. Who clears it, or wants another bit, is taken for
    /// one that protects some of its programs: `true`, and the register is switched from now on.
    pub fn set_guests(&mut self, value: u64) -> bool {
        // The exit loop has checked the value, whose upper half is reserved.
        self.guests = value as u32;
        let does = self.guests == self.hosts || self.guests != 0 && self.guests & !self.hosts == 0;
        self.actions.set(
            Actions::SPEC_CTRL,
            !does || self.actions.contains(Actions::SPEC_CTRL),
        );
        !does
    }
}

/// What VERW works on. It clears for sure with the selector of a data segment that can be written.
pub static SELECTOR: u16 = DATA_SEGMENT;

/// Assembler that writes SPEC_CTRL, if it is switched: `$whose` value. `$at`: address of the [`Precautions`], as text.
/// Loses RAX, RCX, RDX.
macro_rules! write_spec_ctrl {
    ($at:literal, $whose:literal) => {
        concat!(
            "test dword ptr [",
            $at,
            " + {actions}], {spec_ctrl}\n",
            "jz 22f\n",
            "mov ecx, {spec_ctrl_register}\n",
            "mov eax, [",
            $at,
            " + ",
            $whose,
            "]\n",
            "xor edx, edx\n",
            "wrmsr\n",
            "22:\n",
        )
    };
}

/// The same of all that is due before an entry, but for VERW. No return or indirect branch may follow.
macro_rules! before_entry {
    ($at:literal) => {
        concat!(
            write_spec_ctrl!($at, "{guests}"),
            "test dword ptr [",
            $at,
            " + {actions}], {divide}\n",
            "jz 23f\n",
            "mov eax, 1\n",
            "div al\n",
            "23:\n",
        )
    };
}

/// VERW in two parts, between which registers are loaded: the first tests, the second does it and loses no
/// register.
macro_rules! test_for_verw {
    ($at:literal) => {
        concat!("test dword ptr [", $at, " + {actions}], {verw}\n")
    };
}
macro_rules! verw_if_so {
    () => {
        "jz 22f\nverw word ptr [rip + {selector}]\n22:\n"
    };
}

/// Assembler that does what is due after an exit. Loses RAX, RCX, RDX, RBP; needs 264 bytes of stack. The order is that
/// in which one thing depends on another: predictions of returns are good before there is a return, in the last of
/// them; IBRS protects from what was before it was written. INT3 stops what is predicted to come behind the calls, and
/// LFENCE the passing over of what conditional jumps decide.
macro_rules! after_exit {
    ($at:literal) => {
        concat!(
            "mov ebp, [", $at, " + {actions}]\n",
            "test ebp, {ibpb}\n",
            "jz 22f\n",
            "mov ecx, {ibpb_register}\n",
            "mov eax, 1\n",
            "xor edx, edx\n",
            "wrmsr\n",
            "22:\n",
            "test ebp, {rsb}\n",
            "jz 26f\n",
            "mov rdx, rsp\n",
            "mov ecx, 16\n",
            "23: call 24f\n",
            "int3\n",
            "24: call 25f\n",
            "int3\n",
            "25: sub ecx, 1\n",
            "jnz 23b\n",
            "mov rsp, rdx\n",
            "26:\n",
            "test ebp, {read_spec_ctrl}\n",
            "jz 27f\n",
            "mov ecx, {spec_ctrl_register}\n",
            "rdmsr\n",
            "mov [", $at, " + {guests}], eax\n",
            "27:\n",
            write_spec_ctrl!($at, "{hosts}"),
            "test ebp, {call}\n",
            "jz 32f\n",
            "call 29f\n",
            "int3\n",
            "29: add rsp, 8\n",
            "lfence\n",
            "32:\n",
            "test ebp, {bhb}\n",
            "jz 38f\n",
            "mov ecx, 5\n",
            "call 33f\n",
            "jmp 38f\n",
            "int3\n",
            // Five calls deep, and each level jumps five times. That they are calls keeps them from being taken for a
            // loop. Both returns are in the upper half of a cache line, where they are predicted as such (Intel's
            // "Indirect Target Selection").
            ".balign 64, 0xcc\n",
            ".skip 27, 0xcc\n",
            "33: call 34f\n",
            "ret\n",
            ".balign 64, 0xcc\n",
            ".skip 14, 0xcc\n",
            "34: mov eax, 5\n",
            "35: jmp 36f\n",
            "int3\n",
            "36: sub eax, 1\n",
            "jnz 35b\n",
            "sub ecx, 1\n",
            "jnz 33b\n",
            "ret\n",
            "38:\n",
            "lfence\n",
        )
    };
}

/// `naked_asm!` of the lines above and others, with their operands: those of others come after a semicolon. The comment
/// names all operands, as not each function uses each, which the compiler would not have.
macro_rules! careful_asm {
    ($($line:expr),+ $(,)?; $($operand:tt)*) => {
        core::arch::naked_asm!(
            $($line,)+
            "# {actions} {hosts} {guests} {spec_ctrl_register} {ibpb_register} {ibpb} {rsb} {read_spec_ctrl}",
            "# {spec_ctrl} {call} {bhb} {verw} {divide} {selector}",
            actions = const core::mem::offset_of!(crate::arch::speculation::Precautions, actions),
            hosts = const core::mem::offset_of!(crate::arch::speculation::Precautions, hosts),
            guests = const core::mem::offset_of!(crate::arch::speculation::Precautions, guests),
            spec_ctrl_register = const crate::arch::msr_policy::msr::SPEC_CTRL,
            ibpb_register = const crate::arch::msr_policy::msr::PRED_CMD,
            ibpb = const crate::arch::speculation::Actions::IBPB.bits(),
            rsb = const crate::arch::speculation::Actions::RSB.bits(),
            read_spec_ctrl = const crate::arch::speculation::Actions::READ_SPEC_CTRL.bits(),
            spec_ctrl = const crate::arch::speculation::Actions::SPEC_CTRL.bits(),
            call = const crate::arch::speculation::Actions::CALL.bits(),
            bhb = const crate::arch::speculation::Actions::BHB.bits(),
            verw = const crate::arch::speculation::Actions::VERW.bits(),
            divide = const crate::arch::speculation::Actions::DIVIDE.bits(),
            selector = sym crate::arch::speculation::precautions::SELECTOR,
            $($operand)*
        )
    };
}

pub(in crate::arch) use {after_exit, before_entry, careful_asm, test_for_verw, verw_if_so, write_spec_ctrl};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_spec_ctrl() {
        let with = |hosts, actions| Precautions {
            actions,
            hosts,
            guests: 0,
        };
        // Enhanced IBRS and BHI_DIS_S: a kernel that sets the one, then both, has what it wants.
        let mut stays = with(0x401, Actions::BHB);
        assert!(!stays.set_guests(1) && !stays.set_guests(0x401));
        assert_eq!((stays.actions, stays.guests), (Actions::BHB, 0x401));
        // SSBD is not there, and stays switched.
        assert!(stays.set_guests(0x405) && !stays.set_guests(0x401));
        assert_eq!(stays.actions, Actions::BHB | Actions::SPEC_CTRL);
        assert!(with(1, Actions::empty()).set_guests(0), "IBRS costs it something");
        // No IBRS of the hypervisor's.
        let mut none = with(0, Actions::empty());
        assert!(!none.set_guests(0) && none.actions.is_empty() && none.set_guests(1));
        // IBRS at exits: switched in any case.
        let mut always = with(1, Actions::SPEC_CTRL);
        assert!(!always.set_guests(1));
        assert_eq!(always.actions, Actions::SPEC_CTRL);
    }
}
