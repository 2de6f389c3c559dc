//! Where to listen, and who is in the way.
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// A place to listen: `127.0.0.1:9470`, `[::1]:9470` or `unix:/run/tidegate.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP socket; port 0 asks the system for a free one.
    Tcp(SocketAddr),
    /// A Unix socket at this path, for its owner only (mode 0600).
    Unix(PathBuf),
}

impl Address {
    /// Only this machine can reach it. Every container of a pod counts as this machine.
    pub fn is_loopback(&self) -> bool {
        match self {
            Address::Tcp(addr) => addr.ip().to_canonical().is_loopback(),
            Address::Unix(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(addr) => addr.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Neither an address and port nor a Unix socket.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "\"{0}\" is no address to listen on: write an IP address and a port, such as \"127.0.0.1:9470\", or \
     \"unix:/path/to/socket\""
)]
pub struct BadAddress(String);

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Address, BadAddress> {
        match text.strip_prefix("unix:") {
            Some("") => Err(BadAddress(text.into())),
            Some(path) => Ok(Address::Unix(path.into())),
            None => match text.parse() {
                Ok(addr) => Ok(Address::Tcp(addr)),
                // Resolving names here would make the place to listen depend on DNS; this one name is no name.
                Err(_) => match text.strip_prefix("localhost:").map(str::parse) {
                    Some(Ok(port)) => Ok(Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))),
                    _ => Err(BadAddress(text.into())),
                },
            },
        }
    }
}

/// The process that listens on a port that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Its name and id.
    Process {
        /// The command name, as the kernel keeps it (at most 15 bytes).
        name: String,
        /// The process id.
        pid: u32,
    },
    /// A process of this user whose details are not ours to see.
    User(u32),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Process { name, pid } => write!(f, "\"{name}\" (pid {pid})"),
            Holder::User(uid) => write!(f, "a process of user {uid}"),
        }
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("cannot listen on {address}: it is taken{}; stop that process or choose another address", by(.holder))]
    Taken {
        /// The address that was wanted.
        address: Address,
        /// Who listens there, where that can be seen.
        holder: Option<Holder>,
    },
    /// The path of a Unix socket is something else.
    #[error("cannot listen on unix:{}: a file is there that is not a socket, and it is left alone", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Anything else the system says.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// The address that was wanted.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
}

fn by(holder: &Option<Holder>) -> String {
    holder.as_ref().map(|h| format!(" by {h}")).unwrap_or_default()
}

/// Who listens on the TCP address: from `/proc`, so on Linux only, and only as far as this user may look.
pub fn holder_of(addr: SocketAddr) -> Option<Holder> {
    let (inode, uid) = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .find_map(|table| listener_in(&table, addr))?;
    Some(process_with(&format!("socket:[{inode}]")).unwrap_or(Holder::User(uid)))
}

/// The inode and user of the socket in a `/proc/net/tcp` table that listens where `addr` wants to.
fn listener_in(table: &str, addr: SocketAddr) -> Option<(u64, u32)> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, uid, inode) = (fields.get(1)?, fields.get(3)?, fields.get(7)?, fields.get(9)?);
        let (ip, port) = local.split_once(':')?;
        let ip = kernel_ip(ip)?;
        let same = ip == addr.ip().to_canonical() || ip.is_unspecified() || addr.ip().is_unspecified();
        (*state == LISTEN && u16::from_str_radix(port, 16) == Ok(addr.port()) && same)
            .then(|| Some((inode.parse().ok()?, uid.parse().ok()?)))?
    })
}

/// The kernel prints addresses as 32-bit words in the machine's byte order.
fn kernel_ip(hex: &str) -> Option<IpAddr> {
    let words: Vec<u8> = (0..hex.len() / 8)
        .map(|i| u32::from_str_radix(hex.get(i * 8..i * 8 + 8)?, 16).ok())
        .collect::<Option<Vec<u32>>>()?
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    match <[u8; 4]>::try_from(words.as_slice()) {
        Ok(v4) => Some(IpAddr::from(v4)),
        Err(_) => Some(IpAddr::from(<[u8; 16]>::try_from(words.as_slice()).ok()?).to_canonical()),
    }
}

fn process_with(socket: &str) -> Option<Holder> {
    let pids = std::fs::read_dir("/proc").ok()?;
    pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| {
            let links = std::fs::read_dir(format!("/proc/{pid}/fd"));
            links.is_ok_and(|links| {
                links
                    .filter_map(|link| std::fs::read_link(link.ok()?.path()).ok())
                    .any(|target| target.as_os_str() == socket)
            })
        })
        .map(|pid| Holder::Process {
            name: std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .map(|name| name.trim_end().to_owned())
                .unwrap_or_default(),
            pid,
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;

    #[test]
    fn an_address_is_read_and_written_alike() {
        for text in [
            "127.0.0.1:9470",
            "[::1]:0",
            "0.0.0.0:80",
            "unix:/run/tidegate.sock",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!(
            "localhost:9470".parse::<Address>().unwrap().to_string(),
            "127.0.0.1:9470"
        );
        for bad in [
            "",
            "unix:",
            "9470",
            "127.0.0.1",
            "example.com:80",
            "localhost:x",
            "localhost:",
        ] {
            let error = bad.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("127.0.0.1:9470"), "{error}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let loopback = |text: &str| text.parse::<Address>().unwrap().is_loopback();
        for near in [
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
            "unix:/x",
        ] {
            assert!(loopback(near), "{near}");
        }
        for far in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "192.168.1.1:1"] {
            assert!(!loopback(far), "{far}");
        }
    }

    #[test]
    fn a_table_of_the_kernel_is_read_for_listeners_only() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:24FE 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 x\n\
             1: 0100007F:24FF 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 4243 1 x\n";
        let find = |text: &str| listener_in(table, text.parse().unwrap());
        assert_eq!(find("127.0.0.1:9470"), Some((4242, 1000)));
        assert_eq!(find("0.0.0.0:9470"), Some((4242, 1000)));
        assert_eq!(find("127.0.0.2:9470"), None);
        assert_eq!(find("127.0.0.1:9471"), None);
    }
}
