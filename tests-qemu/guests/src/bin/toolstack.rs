//! What a toolstack asks for: domains made well and badly, memory set aside, registers of others, news of the log.
#![no_std]
#![no_main]

extern crate alloc;

use abi::domctl::*;
use abi::event_channel::VIRQ_CON_RING;
use abi::hypercall::HYPERVISOR_DOMCTL;
use abi::{Domid, Errno, GuestHandle, Union};
use alloc::boxed::Box;
use guest_rt::hypercall::{domctl, event_channel, memory, sysctl};
use guest_rt::start_info::StartInfo;
use guest_rt::{event, time};
use guests::domains;
use guests::hypercall::{call, error_code};
use guests::report::Report;
use zerocopy::FromZeros;

guest_rt::main!(main);

fn main(_: StartInfo) -> ! {
    let mut report = Report::default();
    creation(&mut report);
    claims(&mut report);
    registers(&mut report);
    log(&mut report);
    report.finish()
}

fn creation(report: &mut Report) {
    let mut bad = domains::config();
    bad.arch.misc_flags = 2;
    report.equal("unknown-misc-flags", domains::create(&bad), Err(Errno::EINVAL));
    let mut bad = domains::config();
    bad.arch.emulation_flags |= 1 << 31;
    report.equal(
        "unknown-emulation-flags",
        domains::create(&bad),
        Err(Errno::EINVAL),
    );
    for (name, bad) in [
        (
            "unknown-flags",
            DomctlCreatedomain {
                flags: 0x103,
                ..domains::config()
            },
        ),
        (
            "unknown-grant-opts",
            DomctlCreatedomain {
                grant_opts: 0x12,
                ..domains::config()
            },
        ),
        (
            "unknown-iommu-opts",
            DomctlCreatedomain {
                iommu_opts: 2,
                ..domains::config()
            },
        ),
    ] {
        report.equal(name, domains::create(&bad), Err(Errno::EINVAL));
    }
    let mut relaxed = domains::config();
    relaxed.arch.misc_flags = XEN_X86_MSR_RELAXED;
    let domain = domains::create(&relaxed);
    report.check("relaxed-msrs", domain.is_ok(), format_args!("{domain:?}"));
    if let Ok(domain) = domain {
        let kept = domctl::info(domain).map(|info| info.arch_config.misc_flags);
        report.equal("relaxed-msrs-kept", kept, Ok(XEN_X86_MSR_RELAXED));
        report.equal("destroyed", domains::destroy(domain), Ok(()));
    }
}

fn claims(report: &mut Report) {
    let (Ok(first), Ok(second)) = (
        domains::create(&domains::config()),
        domains::create(&domains::config()),
    ) else {
        return report.check("domains-to-claim-for", false, "they are not made");
    };
    for domain in [first, second] {
        report.equal("max-memory", domctl::max_memory(domain, 4 << 30 >> 10), Ok(()));
    }
    let claimed = || sysctl::physinfo().map_or(0, |info| info.outstanding_pages);
    let free = sysctl::physinfo().map_or(0, |info| info.free_pages);
    report.equal(
        "claim-too-much",
        memory::claim_pages(first, free + 1),
        Err(Errno::ENOMEM),
    );
    report.equal("claim", memory::claim_pages(first, free - 100), Ok(()));
    report.equal("claim-twice", memory::claim_pages(first, 10), Err(Errno::EINVAL));
    report.equal(
        "claim-of-claimed",
        memory::claim_pages(second, 200),
        Err(Errno::ENOMEM),
    );
    report.equal("outstanding", claimed(), free - 100);
    let mine = domctl::info(first).map(|info| info.outstanding_pages);
    report.equal("outstanding-of-it", mine, Ok(free - 100));
    let mut frames: [u64; 200] = core::array::from_fn(|index| index as u64);
    let others = memory::populate_physmap(second, 0, &mut frames);
    report.check(
        "others-get-less",
        others.is_ok_and(|count| count <= 100),
        format_args!("{others:?}"),
    );
    let own = memory::populate_physmap(first, 0, &mut frames);
    report.equal("it-gets-all", own, Ok(200));
    report.equal("consumed", claimed(), free - 300);
    report.equal("given-back", memory::claim_pages(first, 0), Ok(()));
    report.equal("nothing-outstanding", claimed(), 0);
    report.equal("claim-again", memory::claim_pages(first, 1000), Ok(()));
    report.equal("outstanding-again", claimed(), 800);
    report.equal("destroyed", domains::destroy(first), Ok(()));
    report.equal("released-by-its-end", claimed(), 0);
    report.equal("destroyed", domains::destroy(second), Ok(()));
}

/// XEN_DOMCTL_getvcpucontext, as a C caller sees it.
fn context(domain: Domid, vcpu: u32, to: &mut VcpuGuestContext) -> i64 {
    let payload = DomctlVcpucontext {
        vcpu,
        pad: 0,
        ctxt: GuestHandle::new(core::ptr::from_mut(to) as u64),
    };
    let mut argument = Domctl {
        cmd: XEN_DOMCTL_GETVCPUCONTEXT,
        interface_version: XEN_DOMCTL_INTERFACE_VERSION,
        domain,
        u: Union::of(&payload),
        ..Default::default()
    };
    let at = core::ptr::from_mut(&mut argument) as u64;
    call(HYPERVISOR_DOMCTL, [at, 0, 0, 0, 0])
}

fn registers(report: &mut Report) {
    let mut found: Box<VcpuGuestContext> = VcpuGuestContext::new_box_zeroed().expect("memory");
    let Ok(domain) = domains::create(&domains::config()) else {
        return report.check("domain-with-registers", false, "it is not made");
    };
    report.equal(
        "context-of-none",
        context(domain, 0, &mut found),
        error_code(Errno::EINVAL),
    );
    report.equal("vcpus", domctl::max_vcpus(domain, 1), Ok(()));
    report.equal(
        "context-of-new",
        context(domain, 0, &mut found),
        error_code(Errno::ENODATA),
    );
    // Loaded, it has begun: as a toolstack gives a vCPU its entry state.
    let loaded = domctl::hvm_context(domain).and_then(|state| domctl::set_hvm_context(domain, &state));
    report.equal("loaded", loaded, Ok(()));
    report.equal("context", context(domain, 0, &mut found), 0);
    report.equal("context-flags", found.flags, VGCF_ONLINE);
    report.check(
        "context-cr0",
        found.ctrlreg[0] & 0x10 != 0,
        format_args!("{:x?}", found.ctrlreg),
    );
    report.equal(
        "context-beyond",
        context(domain, 1, &mut found),
        error_code(Errno::EINVAL),
    );
    report.equal("destroyed", domains::destroy(domain), Ok(()));
}

/// dom0 is told when the hypervisor's log has new lines.
fn log(report: &mut Report) {
    const SECOND: u64 = 1_000_000_000;
    let Ok(port) = event_channel::bind_virq(VIRQ_CON_RING) else {
        return report.check("bind-con-ring", false, "no port");
    };
    let comes = |within| {
        let deadline = time::now() + within;
        let mut came = false;
        while !came && time::now() < deadline {
            event::take_pending(|found| came |= found == port);
        }
        came
    };
    comes(SECOND / 10);
    report.equal("log-is-quiet", comes(SECOND / 10), false);
    report.equal("log-a-line", sysctl::debug_keys(b"m"), Ok(()));
    report.equal("log-event", comes(SECOND), true);
    let text = sysctl::read_console(true).unwrap_or_default();
    let has_line = text.windows(8).any(|part| part == b"memory: ");
    report.check("log-has-it", has_line, "it is not in the ring");
    let rest = sysctl::read_console(false).unwrap_or_default();
    report.check(
        "log-cleared",
        rest.len() < text.len(),
        format_args!("{} bytes", rest.len()),
    );
}
