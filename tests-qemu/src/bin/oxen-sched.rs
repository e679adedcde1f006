//! What the scheduler promises, in numbers: the hypervisor's own code on simulated CPUs.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use hypervisor::sched::Share;
use hypervisor::sched::decisions::{Apart, Decisions};
use hypervisor::sched::simulator::{Rhythm, SECOND, Simulator, fair_shares};

/// Nanoseconds in a microsecond.
const US: u64 = 1_000;
/// And in a millisecond.
const MS: u64 = 1_000_000;
/// Seconds that are simulated for a row.
const SECONDS: u64 = 60;

fn main() {
    weights();
    caps();
    latencies();
    costs();
    costs_apart();
}

/// Simulates [`SECONDS`] after one that is not counted.
fn simulate(simulator: &mut Simulator) {
    simulator.run(SECOND);
    simulator.restart();
    simulator.run(SECONDS * SECOND);
}

/// Percent of a CPU that a job had.
fn percent(simulator: &Simulator, job: usize) -> f64 {
    simulator.used(job) as f64 * 100.0 / (SECONDS * SECOND) as f64
}

fn weights() {
    println!("Shares by weight: vCPUs that always compute, percent of a CPU in {SECONDS} s\n");
    println!("| CPUs | weights                  | fair                 | got                  |");
    println!("|-----:|--------------------------|----------------------|----------------------|");
    let rows: [(u32, &[u16]); 5] = [
        (1, &[256, 512]),
        (1, &[64, 256, 1024]),
        (2, &[256, 256, 256]),
        (2, &[4096, 256, 256]),
        (4, &[128, 256, 256, 512, 1024]),
    ];
    for (cpus, weights) in rows {
        let mut simulator = Simulator::new(cpus, 1);
        let jobs: Vec<usize> = weights
            .iter()
            .map(|&weight| simulator.add(weight, None))
            .collect();
        simulate(&mut simulator);
        let row = |parts: Vec<f64>| {
            let parts: Vec<String> = parts.iter().map(|part| format!("{part:.0}")).collect();
            parts.join(" ")
        };
        let fair = fair_shares(weights, cpus)
            .iter()
            .map(|part| part * 100.0)
            .collect();
        let got = jobs.iter().map(|&job| percent(&simulator, job)).collect();
        let names = row(weights.iter().map(|&weight| weight.into()).collect());
        println!(
            "| {cpus:>4} | {names:<24} | {:<20} | {:<20} |",
            row(fair),
            row(got)
        );
    }
    println!();
}

fn caps() {
    println!("Caps: a domain of two vCPUs that always compute, on 4 CPUs, percent of a CPU\n");
    println!("| cap | alone | beside 8 that compute |");
    println!("|----:|------:|----------------------:|");
    for cap in [5, 25, 50, 100, 150] {
        let got = [0, 8].map(|others| {
            let mut simulator = Simulator::new(4, 1);
            let share = Arc::new(Share::new());
            share.set_cap(cap, 0);
            let jobs = [(); 2].map(|()| simulator.add_to(share.clone(), None));
            for _ in 0..others {
                simulator.add(256, None);
            }
            simulate(&mut simulator);
            jobs.iter().map(|&job| percent(&simulator, job)).sum::<f64>()
        });
        println!("| {cap:>3} | {:>5.1} | {:>21.1} |", got[0], got[1]);
    }
    println!();
}

fn latencies() {
    println!(
        "From waking to running, in us: one sleeper for each CPU (0.1 ms of work, then 5 to 15 ms of sleep)\n"
    );
    println!("| CPUs | that compute |   50 % |   90 % |   99 % | 99.9 % |    all |");
    println!("|-----:|-------------:|-------:|-------:|-------:|-------:|-------:|");
    for cpus in [1, 16, 128, 512] {
        for load in [0, 1, 4] {
            let mut simulator = Simulator::new(cpus, 1);
            for _ in 0..cpus {
                let rhythm = Rhythm {
                    burst: 100 * US..101 * US,
                    sleep: 5 * MS..15 * MS,
                };
                simulator.add(256, Some(rhythm));
            }
            for _ in 0..load * cpus {
                simulator.add(256, None);
            }
            simulator.run(SECOND);
            simulator.restart();
            simulator.run(2 * SECOND);
            let sorted = simulator.latencies();
            let [half, most, nearly, tail, all] = [500, 900, 990, 999, 1000].map(|part| {
                sorted
                    .get((sorted.len() * part / 1000).saturating_sub(1))
                    .map_or(0, |&ns| ns / US)
            });
            println!(
                "| {cpus:>4} | {:>12} | {half:>6} | {most:>6} | {nearly:>6} | {tail:>6} | {all:>6} |",
                load * cpus
            );
        }
    }
    println!();
}

/// Nanoseconds that `work` takes: the least of many batches, as other programs run here, too.
fn least(mut work: impl FnMut()) -> f64 {
    const BATCHES: u32 = 300;
    const BATCH: u32 = 1000;
    let batches = (0..BATCHES).map(|_| {
        let start = Instant::now();
        (0..BATCH).for_each(|_| work());
        start.elapsed().as_nanos() as f64 / f64::from(BATCH)
    });
    batches.fold(f64::INFINITY, f64::min)
}

/// Jobs that a decision looks at or moves, on average.
fn looks(waiting: usize, decide: fn(&mut Decisions)) -> f64 {
    const MANY: u32 = 100_000;
    let mut decisions = Decisions::new(16, waiting, Apart::Not);
    let before = decisions.looks();
    (0..MANY).for_each(|_| decide(&mut decisions));
    (decisions.looks() - before) as f64 / f64::from(MANY)
}

fn costs() {
    println!(
        "Cost of decisions, where so many wait for a group of 16 busy CPUs: how often one looks at a vCPU or moves it in a"
    );
    println!("queue, which is the same each time, and ns on this machine\n");
    println!("| that wait | end of a slice: looks |   ns | wake: looks |   ns |");
    println!("|----------:|----------------------:|-----:|------------:|-----:|");
    for waiting in [1, 4, 16, 64, 250, 1000, 4000] {
        let [slice, wake] = [Decisions::slice, Decisions::nap].map(|decide| {
            let mut decisions = Decisions::new(16, waiting, Apart::Not);
            (
                looks(waiting, decide),
                least(|| decide(black_box(&mut decisions))),
            )
        });
        println!(
            "| {waiting:>9} | {:>21.1} | {:>4.0} | {:>11.1} | {:>4.0} |",
            slice.0, slice.1, wake.0, wake.1
        );
    }
}

/// The same in ns where no two that wait are alike to the queue.
fn costs_apart() {
    println!(
        "\nThe same in ns, where each may run on other CPUs; where each is another domain's, with core scheduling; and where"
    );
    println!("each may run on other CPUs of 512, but on none of every second, which idle\n");
    println!(
        "| that wait | affinities: slice | wake | domains: slice | wake | half of 512 idle: slice |  wake |"
    );
    println!(
        "|----------:|------------------:|-----:|---------------:|-----:|------------------------:|------:|"
    );
    for waiting in [1, 4, 16, 64, 250, 1000, 4000] {
        let machines = [
            (16, Apart::Affinities),
            (16, Apart::Domains),
            (512, Apart::Halves),
        ];
        let [affinities, domains, halves] = machines.map(|(cpus, apart)| {
            [Decisions::slice, Decisions::nap].map(|decide| {
                let mut decisions = Decisions::new(cpus, waiting, apart);
                least(|| decide(black_box(&mut decisions)))
            })
        });
        println!(
            "| {waiting:>9} | {:>17.0} | {:>4.0} | {:>14.0} | {:>4.0} | {:>23.0} | {:>5.0} |",
            affinities[0], affinities[1], domains[0], domains[1], halves[0], halves[1]
        );
    }
}
