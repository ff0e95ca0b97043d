//! Measures the memory of the serving process during a long time of random reads.

use std::time::Instant;

use anyhow::{Context as _, Result};

use super::Findings;
use super::memory::{MAPPED, OWN};
use super::random_read::Files;
use crate::bench::{Bench, Memory};
use crate::inputs::Real;
use crate::made::random::Random;
use crate::measure::{Quantity, Sample, row, say};
use crate::report::Group;
use crate::report::unit::{Unit, to_f64};
use crate::trees::Trees;

const NOW: Quantity = ("VmRSS", Unit::Bytes);
const GROWTH: Quantity = ("VmRSS since the middle", Unit::Bytes);
const READS: Quantity = ("reads", Unit::Number);

/// Number of reads that fill the cache before the test starts.
const READS_BEFORE: u32 = 2000;

/// Times at which memory is measured, a quarter of the duration apart.
const MOMENTS: [&str; 5] = ["start", "quarter", "middle", "three quarters", "end"];
const MIDDLE: usize = 2;

const NOTES: &[&str] = &[
    "Reads of 4 KiB, as under \"Reading at random\". After each, the kernel is made to forget the file's pages, so that all of \
     them reach the server. The cache has its default size, 256 MiB, and 2000 reads before the start have begun to fill it; \
     from the middle on there should be no growth.",
];

pub(crate) fn measure(bench: &Bench, _: &Trees<'_>) -> Result<Findings> {
    let image = bench.inputs.real(Real::GzipLayout)?;
    let (_, served) = bench.first_mount(&image, &[])?;
    let files = Files::below(served.path())?;
    let mut random = Random::new(0);
    let mut reads = 0_u32;
    while reads < READS_BEFORE {
        files.read_and_forget(served.path(), &mut random)?;
        reads += 1;
    }
    let mut seen: Vec<(Memory, u32)> = Vec::new();
    for moment in MOMENTS {
        if !seen.is_empty() {
            let (start, time) = (Instant::now(), bench.soak / 4);
            while start.elapsed() < time {
                files.read_and_forget(served.path(), &mut random)?;
                reads = reads.checked_add(1).context("too many reads")?;
            }
        }
        let memory = served.memory()?;
        say(&format!("soak: {moment}: {} after {reads} reads", Unit::Bytes.show(to_f64(memory.now))));
        seen.push((memory, reads));
    }
    let middle = to_f64(seen[MIDDLE].0.now);
    let rows = MOMENTS.iter().zip(&seen).map(|(moment, (memory, reads))| {
        let sample = Sample(vec![
            (NOW, to_f64(memory.now)),
            (GROWTH, to_f64(memory.now) - middle),
            (OWN, to_f64(memory.own)),
            (MAPPED, to_f64(memory.files)),
            (READS, f64::from(*reads)),
        ]);
        row(*moment, &[sample])
    });
    let mut findings =
        Findings::new(vec![Group { title: "random reads".to_owned(), rows: rows.collect() }], NOTES);
    findings.notes.push(format!("{} s from start to end.", bench.soak.as_secs()));
    Ok(findings)
}
