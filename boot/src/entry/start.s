# The first instructions of Oxen: loader headers, the 32-bit door (multiboot 1, multiboot 2 on BIOS, PVH) and the
# 64-bit door (multiboot 2 on UEFI, boot services live). Intel syntax.
#
# Everything here lies in one section, `.boot`, linked first in the image, so that each address below is
# "load address + constant": the image may be loaded at any multiple of 2 MiB below 4 GiB. Registers:
#   ebp  physical address of the image,  edi  what the loader left in eax,  esi  what it left in ebx.

.set VIRTUAL_BASE,  0xffffffff80200000      # of image_start; boot/link.ld has the same number
.set PHYSICAL_BASE, 0x200000                # where the image is linked to be loaded
.set CODE64, 8                              # selectors of boot_gdt
.set DATA, 16
.set COM1, 0x3f8

.section .boot, "awx", @progbits
.global image_start
image_start:

# Multiboot 1 (specification 0.6.96, 3.1): modules on page boundaries, memory map; the addresses are the ELF headers'.
.balign 8
multiboot1_header:
    .long 0x1badb002
    .long 0x3
    .long -(0x1badb002 + 0x3)

# Multiboot 2 (specification 2.0, 3.1). No framebuffer tag: GRUB would leave text mode.
.balign 8
multiboot2_header:
    .long 0xe85250d6
    .long 0                                 # i386, protected mode
    .long multiboot2_header_end - multiboot2_header
    .long -(0xe85250d6 + (multiboot2_header_end - multiboot2_header))
    # Information request: basic memory information, memory map.
    .short 1, 0
    .long 16
    .long 4, 6
    # Module alignment.
    .short 6, 0
    .long 8
    # Relocatable: from 2 MiB up, below 4 GiB, in steps of 2 MiB, as high as it can be: dom0 wants the low addresses.
    .short 10, 1
    .long 24
    .long PHYSICAL_BASE, 0xffffffff, 0x200000, 2
    # Console: a text console is understood.
    .short 4, 1
    .long 12
    .long 2
    .balign 8
    # Leave boot services running, and enter in 64-bit mode on UEFI.
    .short 7, 1
    .long 8
    .short 9, 1
    .long 12
    .long PHYSICAL_BASE + (start_efi64 - image_start)
    .balign 8
    .short 0, 0
    .long 8
multiboot2_header_end:

# Filled in by the host tool `image`: where the symbol table lies from image_start on, and its length in bytes.
.balign 8
.global symbol_table
symbol_table:
    .long 0, 0

# Offsets in the image, for addressing by ebp (Intel syntax takes one symbol in an operand).
.set at_here, here - image_start
.set at_boot_pml4, boot_pml4 - image_start
.set at_boot_pdpt_image, boot_pdpt_image - image_start
.set at_boot_pdpt_low, boot_pdpt_low - image_start
.set at_boot_pd_image, boot_pd_image - image_start
.set at_early_stack_top, early_stack_top - image_start
.set at_boot_gdt_pointer32, boot_gdt_pointer32 - image_start
.set at_start64, start64 - image_start
.set at_no_long_mode_text, no_long_mode_text - image_start
.set at_no_nx_text, no_nx_text - image_start
.set at_five_levels_text, five_levels_text - image_start
.set at_com1_setup, com1_setup - image_start

# Points the page tables at where the image really is: adds the distance in ecx. Works in both modes.
.macro relocate_tables
    add dword ptr [ebp + at_boot_pml4], ecx
    add dword ptr [ebp + at_boot_pml4 + 256 * 8], ecx
    add dword ptr [ebp + at_boot_pml4 + 511 * 8], ecx
    add dword ptr [ebp + at_boot_pdpt_image + 510 * 8], ecx
    add dword ptr [ebp + at_boot_pdpt_low], ecx
    add dword ptr [ebp + at_boot_pdpt_low + 8], ecx
    add dword ptr [ebp + at_boot_pdpt_low + 16], ecx
    add dword ptr [ebp + at_boot_pdpt_low + 24], ecx
    mov eax, 31
1:  add dword ptr [ebp + eax * 8 + at_boot_pd_image], ecx
    dec eax
    jns 1b
.endm

# Firmware of Intel's machines may limit CPUID to leaf 3 and forbid no-execute pages (IA32_MISC_ENABLE, bits 22 and 34;
# SDM 4, table 2-2). Takes that back, before CPUID is believed: only where it shows, as virtual machines may lack the
# register. For CPUs with long mode; works in both modes; changes eax, ebx, ecx, edx.
.macro lift_limits
    xor eax, eax
    cpuid
    cmp ecx, 0x6c65746e                     # the end of "GenuineIntel"
    jne 9f
    cmp eax, 3
    jbe 8f
    mov eax, 0x80000001
    cpuid
    bt edx, 20
    jc 9f
8:  mov ecx, 0x1a0
    rdmsr
    and eax, ~(1 << 22)
    and edx, ~(1 << 2)
    wrmsr
9:
.endm

# Prints the string at esi on COM1 (115200 8N1) and on the VGA text screen, then halts. Works in both modes.
.macro complain
    lea ebx, [ebp + at_com1_setup]
    mov ecx, 6
1:  movzx edx, byte ptr [ebx]
    add edx, COM1
    mov al, [ebx + 1]
    out dx, al
    add ebx, 2
    loop 1b
    mov edi, 0xb8000
2:  lodsb
    test al, al
    jz 5f
    mov [edi], al
    mov byte ptr [edi + 1], 0x4f            # white on red
    add edi, 2
    mov ah, al
    mov ecx, 100000                         # a UART that is not there must not hang us
3:  mov edx, COM1 + 5
    in al, dx
    test al, 0x20
    jnz 4f
    loop 3b
4:  mov al, ah
    mov edx, COM1
    out dx, al
    jmp 2b
5:  hlt
    jmp 5b
.endm

.code32
.global start
start:
    cli
    cld
    mov edi, eax
    mov esi, ebx
    # Where are we? No loader promises a stack; the four bytes at ebx serve as one for a single call.
    mov edx, [ebx]
    lea esp, [ebx + 4]
    call here
here:
    pop ebp
    mov [ebx], edx
    sub ebp, OFFSET at_here
    lea esp, [ebp + at_early_stack_top]

    # CPUID 8000_0001 EDX: bit 29 long mode, bit 20 no-execute (AMD APM 3, appendix E.4).
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb no_long_mode
    mov eax, 0x80000001
    cpuid
    bt edx, 29
    jnc no_long_mode
    lift_limits
    mov eax, 0x80000001
    cpuid
    bt edx, 20
    jnc no_nx

    mov ecx, ebp
    sub ecx, PHYSICAL_BASE
    relocate_tables
    add dword ptr [ebp + at_boot_gdt_pointer32 + 2], ecx
    lgdt [ebp + at_boot_gdt_pointer32]

    mov eax, cr4
    or eax, 1 << 5                          # PAE
    mov cr4, eax
    lea eax, [ebp + at_boot_pml4]
    mov cr3, eax
    mov ecx, 0xc0000080                     # EFER: LME, NXE
    rdmsr
    or eax, (1 << 8) | (1 << 11)
    wrmsr
    mov eax, 0x80010033                     # CR0: PG, WP, NE, ET, MP, PE
    mov cr0, eax
    push CODE64
    lea eax, [ebp + at_start64]
    push eax
    retf

no_long_mode:
    lea esi, [ebp + at_no_long_mode_text]
    jmp say_and_halt
no_nx:
    lea esi, [ebp + at_no_nx_text]

say_and_halt:
    complain

# Register (from COM1) and value: no interrupts, divisor 1, 8N1, FIFO on, DTR and RTS.
com1_setup:
    .byte 1, 0,  3, 0x80,  0, 1,  1, 0,  3, 3,  2, 7
no_long_mode_text:
    .asciz "\r\nOxen: this processor has no 64-bit mode, which Oxen needs. Halted.\r\n"
no_nx_text:
    .asciz "\r\nOxen: this processor does not offer no-execute pages (or the firmware turned them off), which Oxen needs. Halted.\r\n"
five_levels_text:
    .asciz "\r\nOxen: the firmware has 5-level paging on, which Oxen does not take over. Turn it off in the firmware's setup (LA57). Halted.\r\n"

.code64
start64:
    mov edi, edi                            # the upper halves are undefined after a mode switch
    mov esi, esi
    mov edx, ebp
    lea rax, [rip + high]
    mov rcx, VIRTUAL_BASE
    sub rcx, rdx
    add rax, rcx
    jmp rax
high:
    lea rsp, [rip + boot_stack_top]
    call boot_load_gdt
    jmp enter_rust

# UEFI: 64-bit mode, memory identity-mapped, the firmware's stack, GDT and IDT. They stay until boot services end;
# the page tables are the firmware's lower half together with our upper half.
.global start_efi64
start_efi64:
    cld
    mov edi, eax
    mov esi, ebx
    lea rbp, [rip + image_start]
    mov rax, cr4
    bt eax, 12                             # CR4.LA57: cannot be cleared in long mode (SDM 3A, 2.5)
    jc five_levels
    mov ecx, ebp
    sub ecx, PHYSICAL_BASE
    relocate_tables
    lift_limits
    mov r8, rdi
    mov r9, rsi
    mov rsi, cr3
    and rsi, -4096
    lea rdi, [rip + efi_pml4]
    mov ecx, 256
    rep movsq
    lea rsi, [rip + boot_pml4 + 2048]
    mov ecx, 256
    rep movsq
    mov ecx, 0xc0000080                     # EFER.NXE: every UEFI machine with AMD-V or VT-x has it
    rdmsr
    or eax, 1 << 11
    wrmsr
    lea rax, [rip + efi_pml4]
    mov cr3, rax
    mov rdi, r8
    mov rsi, r9
    mov rdx, rbp
    lea rax, [rip + enter_rust]
    mov rcx, VIRTUAL_BASE
    sub rcx, rdx
    add rax, rcx
    jmp rax

# At the link address from here on.
enter_rust:
    lea rsp, [rip + boot_stack_top]
    xor ebp, ebp                            # the end of every back trace
    call rust_start
    ud2

five_levels:
    lea esi, [ebp + at_five_levels_text]
    complain

# Loads boot_gdt and all segment registers. C ABI; uses the stack it is called on.
.global boot_load_gdt
boot_load_gdt:
    lgdt [rip + boot_gdt_pointer]
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    pop rax
    push CODE64
    push rax
    retfq

.balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff                # 64-bit code
    .quad 0x00cf93000000ffff                # data
boot_gdt_end:
    .short 0
boot_gdt_pointer32:
    .short boot_gdt_end - boot_gdt - 1
    .long PHYSICAL_BASE + (boot_gdt - image_start)
    .balign 8
    .short 0, 0, 0
boot_gdt_pointer:
    .short boot_gdt_end - boot_gdt - 1
    .quad VIRTUAL_BASE + (boot_gdt - image_start)

.balign 16
    .space 64
early_stack_top:

# Page tables, linked for PHYSICAL_BASE. 3: present, writable; 0x83: a 2 MiB page as well. Accessed and dirty
# bits are set by the CPU.
.set TABLE, PHYSICAL_BASE + 3
.balign 4096
.global boot_pml4
boot_pml4:                                  # low 4 GiB at 0 and at 0xffff800000000000; the image at -2 GiB
    .quad TABLE + (boot_pdpt_low - image_start)
    .space 255 * 8
    .quad TABLE + (boot_pdpt_low - image_start)
    .space 254 * 8
    .quad TABLE + (boot_pdpt_image - image_start)
boot_pdpt_low:
    .quad TABLE + (boot_pd_low - image_start)
    .quad TABLE + (boot_pd_low - image_start) + 0x1000
    .quad TABLE + (boot_pd_low - image_start) + 0x2000
    .quad TABLE + (boot_pd_low - image_start) + 0x3000
    .space 508 * 8
boot_pdpt_image:
    .space 510 * 8
    .quad TABLE + (boot_pd_image - image_start)
    .space 8
boot_pd_image:                              # 64 MiB
.set entry, 0x83
.rept 32
    .quad entry
    .set entry, entry + 0x200000
.endr
    .space 480 * 8
boot_pd_low:
.set entry, 0x83
.rept 2048
    .quad entry
    .set entry, entry + 0x200000
.endr
efi_pml4:
    .space 4096

# PVH (Xen public elfnote.h): owner "Xen", type 18, the physical address of the 32-bit entry.
.section .note.pvh, "a", @note
.balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long start_physical                    # boot/link.ld
