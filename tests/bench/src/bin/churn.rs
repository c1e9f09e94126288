//! `headgate-churn`: an API server process with many Services that change on request. Each line of its
//! input has the first number, the number after the last, and the number of changes per second; for each
//! change it prints the number and the time just before it wrote the change.

use std::{
    fs,
    io::{self, BufRead, Write},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use headgate_apiserver::{ApiServer, Options};
use headgate_bench::churn::Shape;
use headgate_dataplane::now_ns;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    shape: Shape,
    /// File to write a kubeconfig to
    kubeconfig: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let server = ApiServer::spawn(Options::default())?;
    for number in 0..arguments.shape.services {
        for object in arguments.shape.objects(number) {
            server.apply_value(object)?;
        }
    }
    fs::write(&arguments.kubeconfig, server.kubeconfig())?;
    println!("serving");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let numbers = line.split(' ').map(str::parse);
        let numbers = numbers.collect::<Result<Vec<u32>, _>>()?;
        let [first, end, rate] = numbers[..] else {
            anyhow::bail!("not three numbers: {line}");
        };
        change(&server, &arguments.shape, first..end, rate).context("changing")?;
    }
    Ok(())
}

fn change(
    server: &ApiServer,
    shape: &Shape,
    numbers: std::ops::Range<u32>,
    rate: u32,
) -> Result<()> {
    let start = Instant::now();
    for (turn, number) in (0..).zip(numbers) {
        let object = shape.changed(number);
        let due = Duration::from_secs(1) * turn / rate;
        thread::sleep(due.saturating_sub(start.elapsed()));
        let sent = now_ns();
        server.apply_value(object)?;
        let mut out = io::stdout();
        writeln!(out, "{number} {sent}")?;
        out.flush()?;
    }
    Ok(())
}
