//! The results of both contenders: medians, their spread, and gate ÷ copy compared with the goal.

use std::fmt;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;

use crate::contender::Contender;
use crate::latency::Latency;
use crate::session::Profile;
use crate::soak::Soak;
use crate::throughput::Run;

/// Gate ÷ copy for each measure: the required value, and the value to aim for after it.
const GOALS: [(Measure, f64, f64); 3] = [
    (Measure::Wall, 0.75, 1.0),
    (Measure::Cpu, 2.0, 1.6),
    (Measure::P99, 1.3, 1.3),
];
/// Maximum resident set of a gate with this fleet, in MiB.
const RSS_MAX_MIB: f64 = 300.0;
/// Factor by which the last tenth of a soak may exceed the fourth before it counts as growth: more than the noise of
/// buffers that are full or not.
const GROWTH_MAX: f64 = 1.10;

/// Everything that was measured.
#[derive(Default, Serialize)]
pub struct Report {
    /// Every throughput run, in the order of execution.
    pub throughput: Vec<Run>,
    /// Every latency turn, at a steady rate.
    pub latency: Vec<Latency>,
    /// Memory over a long run.
    pub soak: Vec<Soak>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Measure {
    Wall,
    Cpu,
    P99,
}

/// The median of some runs, with the smallest and the largest.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// The spread of the values; `None` without values.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, min, max })
    }

    fn show(spread: Option<Self>, unit: f64, decimals: usize) -> String {
        spread.map_or_else(String::new, |Self { median, min, max }| {
            let [median, min, max] = [median, min, max].map(|value| value / unit);
            format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
        })
    }
}

/// Gate ÷ copy, and whether it reaches its goals.
fn ratio(measure: Measure, gate: Option<Spread>, copy: Option<Spread>) -> String {
    let (Some(gate), Some(copy)) = (gate, copy) else {
        return String::new();
    };
    let ratio = gate.median / copy.median;
    let Some((_, must, aim)) = GOALS.into_iter().find(|(of, ..)| *of == measure) else {
        return String::new();
    };
    let reached = |goal: f64| {
        if measure == Measure::Wall {
            ratio >= goal
        } else {
            ratio <= goal
        }
    };
    let verdict = match (reached(aim), reached(must)) {
        (true, _) => "reached",
        (false, true) => "enough",
        (false, false) => "MISSED",
    };
    format!("{ratio:.2} {verdict}")
}

impl Report {
    fn runs(
        &self,
        profile: Profile,
        workers: usize,
        contender: Contender,
        value: impl Fn(&Run) -> f64,
    ) -> Option<Spread> {
        let key = (profile, workers, contender);
        let runs = self
            .throughput
            .iter()
            .filter(|run| (run.profile, run.workers, run.contender) == key);
        Spread::of(runs.map(value))
    }

    fn turns(
        &self,
        profile: Profile,
        contender: Contender,
        value: impl Fn(&Latency) -> f64,
    ) -> Option<Spread> {
        let turns = self
            .latency
            .iter()
            .filter(|turn| (turn.profile, turn.contender) == (profile, contender));
        Spread::of(turns.map(value))
    }

    fn throughput_table(&self) -> Table {
        let mut table = table(&[
            "profile",
            "workers",
            "copy\nk events/s",
            "gate\nk events/s",
            "gate ÷ copy\n≥0.75, then 1.0",
            "copy\nCPU µs/event",
            "gate\nCPU µs/event",
            "gate ÷ copy\n≤2.0, then 1.6",
            "copy\nRSS MiB",
            "gate\nRSS MiB",
        ]);
        let mut groups: Vec<_> = self
            .throughput
            .iter()
            .map(|run| (run.profile, run.workers))
            .collect();
        groups.dedup();
        for (profile, workers) in groups {
            let wall = |of| self.runs(profile, workers, of, |run| run.events_per_second);
            let cpu = |of| self.runs(profile, workers, of, |run| run.cpu_us);
            let rss = |of| self.runs(profile, workers, of, |run| run.rss_max_mib);
            let [copy, gate] = [Contender::Copy, Contender::Gate];
            table.add_row([
                profile.name().to_owned(),
                workers.to_string(),
                Spread::show(wall(copy), 1000.0, 0),
                Spread::show(wall(gate), 1000.0, 0),
                ratio(Measure::Wall, wall(gate), wall(copy)),
                Spread::show(cpu(copy), 1.0, 2),
                Spread::show(cpu(gate), 1.0, 2),
                ratio(Measure::Cpu, cpu(gate), cpu(copy)),
                Spread::show(rss(copy), 1.0, 0),
                Spread::show(rss(gate), 1.0, 0),
            ]);
        }
        table
    }

    fn latency_table(&self) -> Table {
        let mut table = table(&[
            "profile",
            "copy\np50 ms",
            "copy\np99 ms",
            "gate\np50 ms",
            "gate\np99 ms",
            "p99 gate ÷ copy\n≤1.3",
        ]);
        let mut profiles: Vec<_> = self.latency.iter().map(|turn| turn.profile).collect();
        profiles.dedup();
        for profile in profiles {
            let p50 = |of| self.turns(profile, of, |turn| turn.p50_ms);
            let p99 = |of| self.turns(profile, of, |turn| turn.p99_ms);
            let [copy, gate] = [Contender::Copy, Contender::Gate];
            table.add_row([
                profile.name().to_owned(),
                Spread::show(p50(copy), 1.0, 0),
                Spread::show(p99(copy), 1.0, 0),
                Spread::show(p50(gate), 1.0, 0),
                Spread::show(p99(gate), 1.0, 0),
                ratio(Measure::P99, p99(gate), p99(copy)),
            ]);
        }
        table
    }

    fn soak_table(&self) -> Table {
        let mut table = table(&[
            "profile",
            "events",
            "seconds",
            "mean RSS of each tenth, MiB",
            "largest\n≤300",
            "growth\n≤10 %",
        ]);
        for soak in &self.soak {
            let tenths: Vec<_> = soak.rss_mib.iter().map(|mib| format!("{mib:.0}")).collect();
            // Caches, windows and buffers fill during the first tenths.
            let growth = soak
                .rss_mib
                .last()
                .zip(soak.rss_mib.get(3))
                .map_or(1.0, |(end, early)| end / early);
            let verdict = |good| if good { "reached" } else { "MISSED" };
            table.add_row([
                soak.profile.name().to_owned(),
                soak.records.to_string(),
                format!("{:.0}", soak.seconds),
                tenths.join(" "),
                format!(
                    "{:.0} {}",
                    soak.rss_max_mib,
                    verdict(soak.rss_max_mib <= RSS_MAX_MIB)
                ),
                format!(
                    "{:+.0} % {}",
                    (growth - 1.0) * 100.0,
                    verdict(growth <= GROWTH_MAX)
                ),
            ]);
        }
        table
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.throughput.is_empty() {
            writeln!(
                f,
                "Throughput: medians (smallest–largest)\n{}",
                self.throughput_table()
            )?;
        }
        if !self.latency.is_empty() {
            writeln!(
                f,
                "From append in raw to visible in clean\n{}",
                self.latency_table()
            )?;
        }
        if !self.soak.is_empty() {
            writeln!(f, "Memory of the gate\n{}", self.soak_table())?;
        }
        Ok(())
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(header.to_vec());
    table
}
