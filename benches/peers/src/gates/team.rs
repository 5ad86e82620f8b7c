//! Processes that work on one directory at once. Each says `ready` once it has opened it, and then does its work at
//! every line that it's sent, and answers with numbers.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::{million, together};
use crate::store::Result;

/// The first argument that makes this program a member of a team.
pub(crate) const WORKER: &str = "gates-worker";

pub(super) struct Team {
    members: Vec<Member>,
}

struct Member {
    child: Child,
    /// Closed first of all: that ends the member.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Team {
    pub(super) fn start(count: usize, role: &str, dir: &Path, n: u32) -> Result<Team> {
        let mut members = Vec::new();
        for number in 0..count {
            let mut program = Command::new(std::env::current_exe()?);
            program.args([WORKER, role]).arg(dir).args([n.to_string(), number.to_string()]);
            let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let orders = child.stdin.take();
            let answers = BufReader::new(child.stdout.take().ok_or("a worker has no output")?);
            members.push(Member { child, orders, answers });
        }
        let mut team = Team { members };
        for member in &mut team.members {
            member.answer()?;
        }
        Ok(team)
    }

    /// All work once, at the same time.
    pub(super) fn go(&mut self) -> Result<Vec<Vec<u64>>> {
        for member in &mut self.members {
            let orders = member.orders.as_mut().ok_or("the worker was ended")?;
            orders.write_all(b"go\n")?;
            orders.flush()?;
        }
        self.members.iter_mut().map(Member::answer).collect()
    }
}

impl Member {
    fn answer(&mut self) -> Result<Vec<u64>> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("a worker died".into());
        }
        if line.trim() == "ready" {
            return Ok(Vec::new());
        }
        Ok(line.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

/// What a member does at each order.
pub(super) type Work = Box<dyn FnMut() -> Result<Vec<u64>>>;

/// `args`: role, directory, how many, the member's number.
pub(crate) fn work(args: &[String]) -> Result<()> {
    let [role, dir, n, number] = args else { return Err("a worker takes four arguments".into()) };
    let (dir, n, number) = (Path::new(dir), n.parse()?, number.parse()?);
    let mut work = match role.as_str() {
        "incr-larder" => together::incr_larder(dir, n)?,
        "incr-lmdb" => together::incr_lmdb(dir, n)?,
        "get" | "set" => together::half(dir, n, number, role == "set")?,
        "bare-get" | "bare-set" => together::bare(n, number, role == "bare-set"),
        "misses" => together::racer(dir, n, number)?,
        "fresh" => million::fresh(dir, n),
        "rebuild" => million::rebuild(dir),
        other => return Err(format!("no role is called {other}").into()),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let answer: Vec<String> = work()?.iter().map(u64::to_string).collect();
        writeln!(out, "{}", answer.join(" "))?;
        out.flush()?;
    }
    Ok(())
}
