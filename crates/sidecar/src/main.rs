//! The tidegate binary.
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use tidegate::cli::{self, exit};

fn main() -> ExitCode {
    let colour = std::io::stderr().is_terminal();
    let cli = match cli::read(std::env::args_os(), colour) {
        Ok(cli) => cli,
        Err(instead) => {
            // Nobody is left to tell where the terminal has gone away.
            let _ = match instead.to_stderr {
                true => std::io::stderr().write_all(instead.text.as_bytes()),
                false => std::io::stdout().write_all(instead.text.as_bytes()),
            };
            return ExitCode::from(instead.code);
        }
    };
    match tidegate::command::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "tidegate: {error:#}");
            ExitCode::from(exit::SOFTWARE)
        }
    }
}
