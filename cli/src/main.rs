//! The program; all of it is in the library, so that others (the Python wheel) can carry it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    cachectl::main()
}
