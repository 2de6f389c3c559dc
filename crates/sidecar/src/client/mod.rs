//! The commands that talk to a running tidegate: pause, resume, override, status, watch, history, drill, drain, wait.
mod act;
mod drill;
mod history;
mod link;
mod sse;
mod status;
mod table;
mod text;
mod watch;

pub use link::{ClientError, Link};
pub use text::{Look, Out};

use crate::cli::{ClientCommand, Global, exit};

/// Carries out one of the commands above and returns the exit code.
///
/// Dropping the future leaves what was asked for standing: a hold is placed by the first request, and only the wait for
/// its proof ends.
pub async fn run(global: &Global, command: &ClientCommand, out: &mut Out<'_>) -> Result<u8, ClientError> {
    let done = carry_out(global, command, out).await;
    // What is said next should not stand behind a live line.
    let erased = out.erase().map_err(ClientError::from);
    match done.and_then(|code| erased.map(|()| code)) {
        // `tidegate watch | head` ends well.
        Err(ClientError::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(exit::OK),
        done => done,
    }
}

async fn carry_out(global: &Global, command: &ClientCommand, out: &mut Out<'_>) -> Result<u8, ClientError> {
    if let ClientCommand::Status(args) = command
        && !args.fleet.is_empty()
    {
        return status::fleet(global, args, out).await;
    }
    let link = Link::new(
        &global.admin,
        global.token_file.as_deref(),
        global.ca_file.as_deref(),
    )?;
    match command {
        ClientCommand::Pause(args) => act::pause(&link, args, out).await,
        ClientCommand::Resume(args) => act::resume(&link, args, out).await,
        ClientCommand::Override(args) => act::set_aside(&link, args, out).await,
        ClientCommand::Status(args) => status::status(&link, args, out).await,
        ClientCommand::Watch(args) => watch::watch(&link, args, out).await,
        ClientCommand::History(args) => history::history(&link, args, out).await,
        ClientCommand::Drill(args) => drill::drill(&link, args, out).await,
        ClientCommand::Drain(args) => act::drain(&link, args, out).await,
        ClientCommand::Wait(args) => act::wait(&link, args, out).await,
    }
}
