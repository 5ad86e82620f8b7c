//! One of the processes that are measured. It is told on its standard input what to do next, one test a line, and answers
//! each with a line of JSON.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use hdrhistogram::Histogram;
use larder::{Cache, Ttl};
use serde::{Deserialize, Serialize};

use super::{Bench, Ground, Test, next};
use crate::context::{Context, Ended};
use crate::exit_code::{Exit, Failure};

/// What one process did in one test.
#[derive(Default, Deserialize, Serialize)]
pub struct Part {
    pub operations: u64,
    pub missed: u64,
    pub failed: u64,
    pub elapsed_ns: u64,
    /// How many calls took how many nanoseconds.
    pub times: Vec<(u64, u64)>,
}

/// A process that waits for what to do.
pub struct Worker {
    child: Child,
    tell: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
}

impl Worker {
    pub fn start(bench: &Bench, ground: &Ground, number: u16) -> Result<Worker, Failure> {
        let failed = |error: std::io::Error| Failure::failed("starting a process", error);
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg("-C").arg(&ground.place);
        if let Some(namespace) = &ground.namespace {
            command.args(["--ns", namespace]);
        }
        command.args(["bench", "--worker", &number.to_string(), "--entries", &bench.entries.to_string()]);
        command.args(["--size", &bench.size.to_string(), "--duration", &bench.duration.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let (tell, hear) = (child.stdin.take(), child.stdout.take());
        let hear = hear.ok_or_else(|| Failure::failed("starting a process", "no pipe"))?;
        Ok(Worker { child, tell, hear: BufReader::new(hear) })
    }

    pub fn begin(&mut self, test: Test) -> Result<(), Failure> {
        let Some(tell) = &mut self.tell else { return Err(ended()) };
        writeln!(tell, "{}", name(test)).map_err(|_| ended())
    }

    pub fn end(&mut self) -> Result<Part, Failure> {
        let mut line = String::new();
        self.hear.read_line(&mut line).map_err(|_| ended())?;
        serde_json::from_str(&line).map_err(|_| ended())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // At the end of its input it ends.
        self.tell = None;
        let _ = self.child.wait();
    }
}

fn ended() -> Failure {
    Failure::failed("bench", "one of its processes ended before its time")
}

fn name(test: Test) -> String {
    test.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Does what it is told until nobody tells it any more.
pub fn work(bench: &Bench, context: &Context, number: u64) -> Ended {
    let cache = context.change()?;
    let value = bench.value();
    for line in std::io::stdin().lock().lines() {
        let test = line.ok().and_then(|line| Test::from_str(&line, false).ok());
        let test = test.ok_or_else(|| Failure::usage("a worker is told the name of a test"))?;
        context.output.record(&measure(bench, &cache, test, &value, number)?)?;
        context.output.flush()?;
    }
    Ok(Exit::Done)
}

fn measure(bench: &Bench, cache: &Cache, test: Test, value: &[u8], number: u64) -> Result<Part, Failure> {
    let keys: Vec<String> = bench.keys(test).collect();
    let failed = |error: &dyn std::fmt::Display| Failure::failed("noting times", error);
    let mut times = Histogram::<u64>::new(3).map_err(|error| failed(&error))?;
    let mut random = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut part = Part::default();
    let start = Instant::now();
    let mut last = start;
    while last - start < bench.duration.0 {
        let key = &keys[usize::try_from(next(&mut random)).unwrap_or(0) % keys.len()];
        match call(cache, test, key, value) {
            Ok(found) => part.missed += u64::from(!found),
            Err(_) => part.failed += 1,
        }
        // One look at the clock for each call: the end of one is the beginning of the next.
        let now = Instant::now();
        let taken = nanoseconds(now - last);
        times.record(taken.max(1)).map_err(|error| failed(&error))?;
        last = now;
    }
    part.elapsed_ns = nanoseconds(last - start);
    part.operations = times.len();
    part.times = times.iter_recorded().map(|value| (value.value_iterated_to(), value.count_at_value())).collect();
    Ok(part)
}

/// Whether it came to what it should.
fn call(cache: &Cache, test: Test, key: &str, value: &[u8]) -> larder::Result<bool> {
    match test {
        Test::Set => cache.set(key, value, Ttl::Never).map(|()| true),
        Test::Get => Ok(cache.get(key)?.is_some()),
        Test::Miss => Ok(cache.get(key)?.is_none()),
        Test::Has => cache.contains(key),
        Test::Incr => cache.incr_or(key, 1, 1, Ttl::Never).map(|_| true),
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
