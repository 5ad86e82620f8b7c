//! The command line.

use crate::plan::SIZES;
use crate::store::Result;

pub(crate) const HELP: &str = "\
Runs Larder and its peers side by side and prints one table.

  --peers a,b      only these (--list names them); Larder is what the ratios are to
  --sizes a,b      value sizes: bytes, or with KiB or MiB (default 256,16KiB,1MiB)
  --processes a,b  1, 2 or both (default 1,2)
  --rounds N       at most so many rounds of each section (default 9)
  --seconds N      end the rounds after about so many seconds (default 180); three rounds are always done
  --keys N         how many small values the quick peers and the trees hold (default 100000 and 10000)
  --quick          three rounds of a few operations: shows that it works, not how fast
  --python PATH    an interpreter that can import diskcache and django (default python3)
  --dir PATH       a directory on the disk to be measured (default: beside the program)
  --list           name the peers
";

pub(crate) struct Args {
    pub(crate) peers: Option<Vec<String>>,
    pub(crate) sizes: Vec<usize>,
    pub(crate) processes: Vec<usize>,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    pub(crate) keys: Option<u32>,
    pub(crate) quick: bool,
    pub(crate) python: String,
    pub(crate) dir: Option<String>,
    pub(crate) list: bool,
    pub(crate) help: bool,
}

impl Args {
    pub(crate) fn parse(words: &[String]) -> Result<Args> {
        let mut args = Args {
            peers: None,
            sizes: SIZES.to_vec(),
            processes: vec![1, 2],
            rounds: 9,
            seconds: 180,
            keys: None,
            quick: false,
            python: "python3".to_owned(),
            dir: None,
            list: false,
            help: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--quick" => args.quick = true,
                "--list" => args.list = true,
                "--help" | "-h" => args.help = true,
                "--peers" => args.peers = Some(value()?.split(',').map(str::to_owned).collect()),
                "--sizes" => args.sizes = each(value()?, size)?,
                "--processes" => args.processes = each(value()?, number)?,
                "--rounds" => args.rounds = number(value()?)?,
                "--seconds" => args.seconds = number(value()?)?,
                "--keys" => args.keys = Some(number(value()?)?),
                "--python" => args.python.clone_from(value()?),
                "--dir" => args.dir = Some(value()?.clone()),
                other => return Err(format!("unknown option {other}; --help lists them").into()),
            }
        }
        if args.processes.iter().any(|n| ![1, 2].contains(n)) {
            return Err("--processes takes 1, 2 or 1,2".into());
        }
        if args.sizes.iter().any(|size| !(64..=1 << 20).contains(size)) {
            return Err("--sizes takes sizes from 64 bytes to 1MiB".into());
        }
        if args.keys.is_some_and(|keys| !(1000..=1_000_000).contains(&keys)) {
            return Err("--keys takes 1000 to 1000000".into());
        }
        Ok(args)
    }
}

fn each<T>(list: &str, one: fn(&str) -> Result<T>) -> Result<Vec<T>> {
    list.split(',').map(one).collect()
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| format!("{text} is not a number that fits here").into())
}

fn size(text: &str) -> Result<usize> {
    let (digits, unit) = match text {
        _ if text.ends_with("KiB") => (&text[..text.len() - 3], 1 << 10),
        _ if text.ends_with("MiB") => (&text[..text.len() - 3], 1 << 20),
        _ => (text, 1),
    };
    let number: usize = number(digits)?;
    number.checked_mul(unit).ok_or_else(|| format!("{text} is too large").into())
}
