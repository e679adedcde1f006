//! Domains that end themselves or attack: each ends for the right reason, and everything else goes on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::shim::{Shim, archive};
use super::{BOTH, PATIENCE, test};
use crate::runner::{Bench, Test};
use crate::{Machine, Vehicle, outputs};

/// What a hostile domU does, and what the shim says of its end.
const ENDS: &[(&str, &str)] = &[
    ("triple_fault", "reason code 1 (reboot): action is destroy"),
    ("jump_nowhere", "reason code 1 (reboot): action is destroy"),
    ("no_page_tables", "(h) has shut down, reason code 3 (crash)"),
    ("execute_nowhere", "executes where there is no memory"),
    ("no_memory", "reason code 0 (poweroff): action is destroy"),
    ("halt", "reason code 0 (poweroff): action is destroy"),
    ("panic", "reason code 3 (crash): action is destroy"),
    ("reboot", "reason code 1 (reboot): action is destroy"),
    ("watchdog", "reason code 4 (watchdog): action is destroy"),
    ("watchdog-down", "reason code 4 (watchdog): action is destroy"),
    ("privileged", "reason code 0 (poweroff): action is destroy"),
];

/// How often a domain is made and destroyed in the test for leaks.
const LIVES: u32 = 100;

/// The tests.
pub fn tests() -> Vec<Test> {
    BOTH.into_iter()
        .flat_map(|vehicle| {
            [
                test("hostile domUs", vehicle, ends),
                test("domUs that call anything", vehicle, wild),
                test("spinning domU", vehicle, spin),
                test("nothing left in memory", vehicle, secret),
                test("100 lives", vehicle, lives),
                test("lives on all CPUs at once", vehicle, lives_at_once),
                test("domains made on all CPUs at once", vehicle, creations),
                test("bad domU configs", vehicle, configs),
                test("domU at its limits", vehicle, limits),
            ]
        })
        // QEMU carries task switches out itself.
        .chain([Vehicle::Vmx, Vehicle::SvmBochs].map(|vehicle| test("task switch", vehicle, task_switch)))
        // It sleeps by this machine's clock, which is not that of Bochs.
        .chain([test("domU that reboots at once", Vehicle::Svm, restarts)])
        .collect()
}

fn config(what: &str) -> Vec<u8> {
    config_of("hostile", &format!("what={what}"))
}

fn config_of(kernel: &str, extra: &str) -> Vec<u8> {
    format!(
        "name = \"h\"\ntype = \"pvh\"\nkernel = \"/guests/{kernel}\"\nextra = \"{extra}\"\nmemory = 32\nvcpus = 1\n\
         on_poweroff = \"destroy\"\non_reboot = \"destroy\"\non_crash = \"destroy\"\n"
    )
    .into_bytes()
}

/// The shim with a config `/etc/oxen/WHAT.cfg` for each of `whats`.
pub(super) fn hostile<'a>(bench: &'a mut Bench, machine: Machine, whats: &[&str]) -> Result<Shim<'a>> {
    let names: Vec<String> = whats.iter().map(|what| format!("etc/oxen/{what}.cfg")).collect();
    let mut files: Vec<(&str, Vec<u8>)> = names
        .iter()
        .zip(whats)
        .map(|(name, what)| (name.as_str(), config(what)))
        .collect();
    for path in ["guests/hostile", "guests/punctual", "guests/rates"] {
        files.push((path, std::fs::read(outputs::output(path)?)?));
    }
    let archive = archive(&bench.scratch(), &files)?;
    Shim::start(bench, machine, archive)
}

fn ends(bench: &mut Bench, machine: Machine) -> Result<()> {
    let whats: Vec<&str> = ENDS.iter().map(|(what, _)| *what).collect();
    let mut shim = hostile(bench, machine, &whats)?;
    for (what, end) in ENDS {
        // The second is down, unless the first starts it.
        shim.console
            .type_line(&format!("create /etc/oxen/{what}.cfg vcpus=2"))?;
        shim.console
            .expect(end, PATIENCE)
            .with_context(|| (*what).to_owned())?;
    }
    shim.wait_for("h", false)?;
    let output = shim.console.output();
    let failed: Vec<&str> = output.lines().filter(|line| line.contains(": fail: ")).collect();
    ensure!(failed.is_empty(), "{failed:?}");
    Ok(())
}

/// A domain does not find what one before it has left in its memory: of 114 MiB that both have 96 of, much must be the same.
fn secret(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.memory = 384;
    let mut shim = hostile(bench, machine, &["secret"])?;
    for _ in 0..2 {
        shim.console.type_line("create secret memory=96")?;
        super::guests::verdict(shim.console)?;
        shim.wait_for("h", false)?;
    }
    Ok(())
}

/// A task switch by hardware is not emulated: it ends the domain, as a crash, and the log says why.
fn task_switch(bench: &mut Bench, machine: Machine) -> Result<()> {
    let mut shim = hostile(bench, machine, &["task_switch", "halt"])?;
    shim.console.type_line("create task_switch")?;
    shim.console
        .expect("d1v0 crashed: cannot go on after TaskSwitch { cause: ", PATIENCE)?;
    shim.console
        .expect("reason code 3 (crash): action is destroy", PATIENCE)?;
    shim.wait_for("h", false)?;
    shim.console.type_line("create halt")?;
    shim.ended("reason code 0 (poweroff): action is destroy")
}

/// Domains that make every hypercall with random arguments, those that end them or take their memory away included: whatever
/// becomes of them, the next ones come, a good one beside them is not disturbed, and all of them is free again.
fn wild(bench: &mut Bench, machine: Machine) -> Result<()> {
    const SEEDS: u64 = 24;
    /// So many are there at once.
    const TOGETHER: usize = 6;
    /// Most have ended by then, or block for ever.
    const LIFE: Duration = Duration::from_secs(5);
    let mut files = vec![("good.cfg".to_owned(), config_of("hello", ""))];
    for seed in 1..=SEEDS {
        let extra = format!("wild=1 seed={seed} calls=4000");
        files.push((format!("{seed}.cfg"), config_of("fuzz", &extra)));
    }
    for path in ["guests/fuzz", "guests/hello"] {
        files.push((path.to_owned(), std::fs::read(outputs::output(path)?)?));
    }
    let files: Vec<_> = files
        .iter()
        .map(|(name, contents)| (name.as_str(), contents.clone()))
        .collect();
    let archive = archive(&bench.scratch(), &files)?;
    let mut shim = Shim::start(bench, machine, archive)?;
    let free = shim.first_life("/good.cfg", "h")?;
    let seeds: Vec<u64> = (1..=SEEDS).collect();
    for together in seeds.chunks(TOGETHER) {
        for seed in together {
            // Others may end meanwhile, and draw the prompt anew.
            shim.console
                .type_line(&format!("create /{seed}.cfg name='w{seed}'"))?;
            let (refused, said) = shim
                .console
                .expect_any(&[&format!("(w{seed}) created in "), "was not created"], PATIENCE)?;
            ensure!(refused == 0, "seed {seed}: {said}");
            shim.catch_up()?;
        }
        let good = format!("good{}", together[0]);
        shim.console
            .type_line(&format!("create /good.cfg name='good' memory=64 extra='{good}'"))?;
        for said in [&format!("command line: {good}"), "TEST memory: pass"] {
            shim.console
                .expect(said, PATIENCE)
                .with_context(|| format!("{good} beside {together:?}"))?;
        }
        std::thread::sleep(LIFE);
        for name in together.iter().map(|seed| format!("w{seed}")) {
            shim.command(&format!("destroy {name}"))?;
            shim.wait_for(&name, false)
                .with_context(|| format!("one of {together:?}"))?;
        }
        shim.wait_for("good", false)?;
    }
    let began = shim.console.output().matches(" calls=4000").count();
    ensure!(began as u64 == SEEDS, "{began} of them began");
    shim.console.type_line("create /good.cfg memory=64")?;
    super::guests::verdict(shim.console)?;
    shim.wait_for("h", false)?;
    shim.expect_free(free)
}

/// A domain that reboots at once is started again later each time, and no more once it is destroyed. Those that are kept
/// beside it have nodes of their own; a new one has the disks that the one before had in the end.
fn restarts(bench: &mut Bench, machine: Machine) -> Result<()> {
    const UUID: &str = "2d2c6a0e-5ad5-4c8f-9d6a-6c0f0e1b7a51";
    const CREATE: &str = "create /etc/oxen/reboot.cfg";
    let mut shim = hostile(bench, machine, &["reboot"])?;
    shim.console.type_line(&format!(
        "{CREATE} on_reboot='rename-restart' uuid='{UUID}' disk=['ram:256K,xvda,rw']"
    ))?;
    let mut left = 0;
    for seconds in [2, 4] {
        let wait = format!("it is started again in {seconds} seconds");
        shim.console.expect(&wait, PATIENCE)?;
        if seconds == 4 {
            shim.command("block-attach h ram:256K,xvdb,rw")?;
            shim.command("block-detach --force h xvda")?;
            shim.command("block-resize h xvdb 8M")?;
            left = left_for_disks(&mut shim)?;
        }
        shim.console.expect("(h) has been started", PATIENCE)?;
    }
    shim.console
        .expect("it is started again in 8 seconds", PATIENCE)?;
    let disks = shim.command("block-list h")?;
    ensure!(disks.contains("/51728") && !disks.contains("/51712"), "{disks}");
    // With the pages, a list of them.
    let taken = left - left_for_disks(&mut shim)?;
    ensure!(
        (8..=9).contains(&taken),
        "the new domain's disk takes {taken} MiB"
    );
    let said = shim.command(CREATE)?;
    ensure!(said.contains("a domain named h exists already"), "{said}");
    shim.command("destroy h-1")?;
    let named = format!("xenstore-read /vm/{UUID}/name");
    let said = shim.command(&named)?;
    ensure!(said.lines().any(|line| line == "h"), "{said}");
    shim.command("destroy h")?;
    let said = shim.command("xenstore-ls /vm")?;
    ensure!(said.contains("\"h-2\"") && !said.contains(UUID), "{said}");
    ensure!(
        !said.contains("h-3"),
        "it was not destroyed before its start: {said}"
    );
    shim.command("destroy h-2")?;
    std::thread::sleep(Duration::from_secs(10));
    shim.wait_for("h", false)
}

/// MiB that there are for disks beside those of domain `h`.
fn left_for_disks(shim: &mut Shim) -> Result<u32> {
    let said = shim.command("block-resize h xvdb 100G")?;
    let left = said
        .split_once("not enough memory: ")
        .and_then(|(_, left)| left.split_once(" MiB"));
    let (left, _) = left.with_context(|| said.clone())?;
    Ok(left.parse()?)
}

/// A domain takes all ports, grant frames and mappings that its config gives it, and no more; it dies with all of them.
fn limits(bench: &mut Bench, machine: Machine) -> Result<()> {
    let config = |vcpus: u32, ports: u32| {
        format!(
            "name='quotas'\ntype='pvh'\nkernel='/quotas'\nmemory=32\nvcpus={vcpus}\n\
             extra='vcpus={vcpus} ports={ports} frames=3 maptrack=2'\n\
             event_channels={ports}\nmax_grant_frames=3\nmax_maptrack_frames=2\non_poweroff='destroy'\n"
        )
        .into_bytes()
    };
    let archive = archive(
        &bench.scratch(),
        &[
            ("quotas", std::fs::read(outputs::output("guests/quotas")?)?),
            ("few.cfg", config(1, 20)),
            ("many.cfg", config(40, 4000)),
        ],
    )?;
    let mut shim = Shim::start(bench, machine, archive)?;
    for name in ["few", "many"] {
        shim.console.type_line(&format!("create /{name}.cfg"))?;
        super::guests::verdict(shim.console)?;
        shim.ended("reason code 0 (poweroff): action is destroy")?;
        shim.wait_for("quotas", false)?;
    }
    Ok(())
}

/// The shim with a config `spin`, of a domain that computes for ever with interrupts off.
pub fn spinning(bench: &mut Bench, machine: Machine) -> Result<Shim<'_>> {
    hostile(bench, machine, &["spin"])
}

/// A domain that computes for ever with interrupts off: the shim still answers, and can end it.
fn spin(bench: &mut Bench, machine: Machine) -> Result<()> {
    let mut shim = spinning(bench, machine)?;
    shim.command("create /etc/oxen/spin.cfg")?;
    shim.wait_for("h", true)?;
    shim.command("pause h")?;
    shim.command("unpause h")?;
    shim.command("destroy h")?;
    shim.wait_for("h", false)?;
    Ok(())
}

/// Made and destroyed again and again: all memory comes back.
pub(super) fn lives(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    machine.mips = 10;
    let mut shim = spinning(bench, machine)?;
    let free = shim.first_life("/etc/oxen/spin.cfg", "h")?;
    for life in 0..LIVES {
        let said = shim.command("create /etc/oxen/spin.cfg")?;
        ensure!(said.contains("created"), "life {life}: {said}");
        shim.command("destroy h")?;
    }
    shim.expect_free(free)
}

/// Domains that compute on all CPUs, some of them storming themselves with interrupts, come together and go together.
pub(super) fn lives_at_once(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    const ROUNDS: u32 = 6;
    const TOGETHER: u32 = 6;
    // All compute for as long as dom0 prints.
    (machine.cpus, machine.mips) = (4, 10);
    let mut shim = spinning(bench, machine)?;
    let mut free = None;
    for round in 0..ROUNDS {
        for number in 0..TOGETHER {
            let what = if number % 2 == 0 { "spin" } else { "storm" };
            let said = shim.command(&format!("create spin name='h{number}' extra='what={what}'"))?;
            ensure!(said.contains("created"), "round {round}: {said}");
        }
        for number in 0..TOGETHER {
            shim.command(&format!("destroy h{number}"))?;
        }
        for number in 0..TOGETHER {
            shim.wait_for(&format!("h{number}"), false)?;
        }
        // What the first of them leave for later ones is not missing.
        match free {
            None => free = Some(shim.free_frames()?),
            Some(free) => shim.expect_free(free)?,
        }
    }
    Ok(())
}

/// Dom0's vCPUs make domains and destroy them, each on its own CPU.
pub(super) fn creations(bench: &mut Bench, mut machine: Machine) -> Result<()> {
    (machine.cpus, machine.mips) = (4, 10);
    machine.command_line += " dom0_max_vcpus=4";
    super::guests::run(bench, machine, "creations")
}

/// Configs that are wrong: each is refused with a sentence that says what and where.
fn configs(bench: &mut Bench, machine: Machine) -> Result<()> {
    let good = "name='x'\ntype='pvh'\nkernel='/k'\nmemory=32\n";
    let kernel = std::fs::read(outputs::output("guests/hello")?)?;
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("k", kernel.clone()),
        ("half", kernel[..kernel.len() / 2].to_vec()),
        ("text", b"not a kernel at all".to_vec()),
        ("bomb", super::bomb(300)?),
        ("bomb.cfg", good.replace("'/k'", "'/bomb'").into_bytes()),
        ("key.cfg", format!("{good}colour='red'\n").into_bytes()),
        ("missing.cfg", good.replace("'/k'", "'/nowhere'").into_bytes()),
        ("half.cfg", good.replace("'/k'", "'/half'").into_bytes()),
        ("text.cfg", good.replace("'/k'", "'/text'").into_bytes()),
        ("hvm.cfg", good.replace("pvh", "hvm").into_bytes()),
        ("huge.cfg", good.replace("=32", "=100000").into_bytes()),
    ];
    let archive = archive(&bench.scratch(), &files)?;
    let mut shim = Shim::start(bench, machine, archive)?;
    for (command, sentence) in [
        ("create /key.cfg", "/key.cfg:5: unknown key 'colour'"),
        (
            "create /missing.cfg",
            "/nowhere: no such file in the boot archive",
        ),
        ("create /half.cfg", "lies outside the file"),
        ("create /text.cfg", "neither an ELF file nor a Linux bzImage"),
        ("create /bomb.cfg", "not enough memory to unpack it"),
        ("create /hvm.cfg", "'hvm' guests are not supported"),
        ("create /huge.cfg", "was not created: claiming memory: ENOMEM"),
        ("create /no.cfg", "/no.cfg: no such file in the boot archive"),
        ("destroy nobody", "nobody is an invalid domain identifier"),
        ("nonsense", "no such command"),
    ] {
        let said = shim.command(command)?;
        ensure!(
            said.contains(sentence),
            "{command} said {said:?}, not {sentence:?}"
        );
    }
    Ok(())
}
