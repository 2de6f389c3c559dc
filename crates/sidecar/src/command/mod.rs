//! What each command does, told from the top.
mod check;
#[cfg(feature = "devstore")]
mod demo;
#[cfg(feature = "devstore")]
mod devstore;
mod run;
mod signals;

use crate::cli::{Cli, Command, exit};
use crate::{client, log};
use anyhow::{Context, Result};

/// Carries out a command and returns its exit code.
///
/// # Errors
/// What no exit code is documented for.
pub fn run(cli: Cli) -> Result<u8> {
    // Two providers of cryptography could be linked by a feature nobody meant to switch on; ours is named here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Processes tell their story; commands speak on standard output, and log what went wrong.
    let quiet = match &cli.command {
        Command::Run(_) => "info",
        #[cfg(feature = "devstore")]
        Command::Devstore(_) => "info",
        _ => "error",
    };
    if let Err(error) = log::start(&cli.global.log_filter(quiet)) {
        complain(&format!("{error:#}"));
        return Ok(exit::USAGE);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting tokio")?;
    let ended = runtime.block_on(async {
        match &cli.command {
            Command::Run(args) => run::run(args).await,
            Command::Check(args) => check::check(args).await,
            #[cfg(feature = "devstore")]
            Command::Demo(args) => demo::demo(args).await,
            #[cfg(feature = "devstore")]
            Command::Devstore(args) => devstore::devstore(args).await,
            Command::Completions(args) => {
                use std::io::Write;
                std::io::stdout()
                    .write_all(&args.script())
                    .context("standard output")?;
                Ok(exit::OK)
            }
            Command::Client(command) => ask(&cli, command).await,
        }
    });
    // A thread that sits in read(2) on standard input never returns; waiting for it would hang the exit.
    runtime.shutdown_background();
    ended
}

async fn ask(cli: &Cli, command: &crate::cli::ClientCommand) -> Result<u8> {
    let mut stdout = std::io::stdout();
    let mut out = client::Out::new(&mut stdout, client::Look::of_stdout());
    match client::run(&cli.global, command, &mut out).await {
        Ok(code) => Ok(code),
        Err(error) => {
            complain(&format!("{error}"));
            Ok(error.code())
        }
    }
}

/// One clear line on standard error.
fn complain(line: &str) {
    use std::io::Write;
    // Where standard error is gone, nobody is left to tell.
    let _ = writeln!(std::io::stderr(), "tidegate: {line}");
}

/// Reads a configuration, or says everything that is wrong with it.
fn configured(args: &crate::cli::ConfigArgs) -> Result<crate::config::Config, u8> {
    crate::config::load(&args.config).map_err(|errors| {
        for problem in errors.problems {
            complain(&problem.to_string());
        }
        exit::CONFIG
    })
}
