//! Two faults: one in an operation, one in the recovery from it, both by chance.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use larder::fault::inject;
use larder::{Cache, Options, Prune, Ttl, Verify};

use super::operations::{NOW, OPERATIONS, Scene, large};
use super::stocks::{self, Stock, prepare};
use super::{Bench, CONFIGS, Config, ERRNOS, Fault, Harm, Log, Saboteur};
use crate::support::campaign::campaign;
use crate::support::{Dice, HandClock, temp_dir};

/// Pairs of faults in a round.
const PAIRS: u64 = 200;

/// What a key may ever have, but for none.
const VALUES: &[(&str, &[&str])] =
    &[("k", &["old", "new"]), ("n", &["41", "42"]), ("b", &["by"]), ("t", &["tagged"]), ("new", &["new", "42"])];

fn fault(dice: &mut Dice, calls: u64) -> Fault {
    let harm = match dice.below(10) {
        9 => Harm::Short,
        n => Harm::Errno(ERRNOS[usize::try_from(n).expect("one of nine")].0),
    };
    Fault { at: usize::try_from(dice.below(calls.max(1))).expect("a call"), harm, forever: dice.below(2) == 0 }
}

fn sabotaged<R>(fault: Option<Fault>, body: impl FnOnce() -> R) -> Result<(R, usize), String> {
    let log = Rc::new(RefCell::new(Log::default()));
    let saboteur = Saboteur { fault, log: log.clone(), interrupted: false };
    let result = catch_unwind(AssertUnwindSafe(|| inject(saboteur, body))).map_err(|_| "it panicked".to_owned())?;
    let calls = log.borrow().calls.len();
    Ok((result, calls))
}

/// What a process does that finds a cache in whatever state; each step may fail, and the next one comes all the same.
fn recover(options: &dyn Fn() -> Options) {
    if let Ok(cache) = options().open() {
        let _ = (cache.get("k"), cache.prune(&Prune::new()), cache.get("b"));
        let _ = (cache.verify(Verify::new().repair(true), |_| ()), cache.set("k", "new", Ttl::Never));
    }
}

/// With all calls working again, every key has a value it once had, and a repair leaves nothing to find.
fn judge(cache: &Cache, stock: Stock) -> Result<(), String> {
    let say = |e: larder::Error| e.to_string();
    for (key, values) in VALUES {
        let Some(value) = cache.get(key).map_err(say)? else { continue };
        let large = stock == Stock::Large && *value == *large();
        if !large && !values.iter().any(|known| *value == *known.as_bytes()) {
            Err(format!(
                "{key} is {} bytes, {:?}",
                value.len(),
                String::from_utf8_lossy(&value[..value.len().min(20)])
            ))?;
        }
    }
    cache.verify(Verify::new().repair(true), |_| ()).map_err(say)?;
    let mut findings = Vec::new();
    cache.verify(Verify::new(), |found| findings.push(found.clone())).map_err(say)?;
    findings.retain(|found| !found.place.ends_with(stocks::FOREIGN));
    if !findings.is_empty() {
        Err(format!("verify found after a repair: {findings:?}"))?;
    }
    cache.set("k", "again", Ttl::Never).map_err(say)?;
    let again = cache.get("k").map_err(say)?.is_some_and(|value| *value == *b"again");
    if again { Ok(()) } else { Err("a later set left another value".to_owned()) }
}

fn pair(bench: &Bench, dice: &mut Dice) -> Result<(), String> {
    bench.image.put(bench.dir);
    let clock = HandClock::at(NOW);
    let mut scene = Scene { dir: bench.dir, clock: &clock, config: bench.config, cache: None };
    if !bench.operation.opens {
        scene.cache = Some(scene.options().open().map_err(|e| format!("before: {e}"))?);
    }
    let first = fault(dice, 60);
    // Its answer and what it may leave are judged in the matrix of single faults.
    sabotaged(Some(first), || drop((bench.operation.act)(&scene))).map_err(|e| format!("{first:?}: {e}"))?;
    // Its process goes on, or is gone.
    if dice.below(2) == 0 {
        scene.cache = None;
    }
    let calls = dice.pick(&[60, 60, 60, 1500]);
    let second = fault(dice, calls);
    let options = || scene.options().lock_wait(Duration::from_millis(5));
    let both = |what: String| format!("{first:?}, then {second:?}: {what}");
    sabotaged(Some(second), || recover(&options)).map_err(both)?;
    scene.cache = None;
    let cache = scene.options().open().map_err(|e| both(format!("it doesn't open: {e}")))?;
    judge(&cache, bench.operation.stock).map_err(both)?;
    drop(cache);
    let open = bench.open_files();
    if open.is_empty() { Ok(()) } else { Err(both(format!("left open: {open:?}"))) }
}

#[test]
fn a_second_fault_in_the_recovery_leaves_nothing_that_a_repair_does_not_mend() {
    let test = "faults::recovery::a_second_fault_in_the_recovery_leaves_nothing_that_a_repair_does_not_mend";
    campaign(test, PAIRS, |seed| {
        let (room, mut dice) = (temp_dir(), Dice::new(seed));
        let mut wrong = Vec::new();
        for _ in 0..PAIRS / 50 {
            let operation = &OPERATIONS[usize::try_from(dice.below(OPERATIONS.len() as u64)).expect("an operation")];
            let fitting: Vec<Config> = CONFIGS.into_iter().filter(|config| config.fits(operation)).collect();
            let config = dice.pick(&fitting);
            let image = prepare(operation.stock, config, &room.path().join("stock"));
            let bench = Bench { operation, config, image: &image, dir: &room.path().join("run") };
            wrong.extend((0..50).filter_map(|_| {
                let what = pair(&bench, &mut dice).err()?;
                Some(format!("{}, {config:?}: {what}", operation.name))
            }));
        }
        assert!(wrong.is_empty(), "{} pairs:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
        PAIRS
    });
}
