//! goanyway: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    goanyway::cli::execute(std::env::args_os())
}
