//! The program: all of it is in the library, for programs that add policies of their own.

use std::process::ExitCode;

fn main() -> ExitCode {
    folio::program::main(std::env::args_os())
}
