//! What pods of the walk run besides the system's own programs: an HTTP client that resolves names as any program does
//! (`getaddrinfo`), and a DNS question whose return code can be seen.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// What came of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fetched {
    /// The address that answered.
    pub(crate) address: String,
    /// The body.
    pub(crate) body: String,
    /// When the answer was complete, in microseconds of the system's clock.
    pub(crate) at_micros: u64,
}

/// Now, in microseconds of the system's clock, which all processes of one machine share.
pub(crate) fn clock_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// `lab-internal fetch HOST[:PORT] TIMEOUT-MS [RETRY-MS]`: an HTTP GET of `/`, each try bounded by the timeout; with a retry
/// time, again every 5 ms until that is over. Prints a [`Fetched`].
pub(crate) fn fetch(words: &[String]) -> Result<()> {
    let [host, timeout, rest @ ..] = words else { bail!("fetch HOST[:PORT] TIMEOUT-MS [RETRY-MS]") };
    let timeout = Duration::from_millis(timeout.parse().context("TIMEOUT-MS")?);
    let retry = match rest {
        [] => Duration::ZERO,
        [retry, ..] => Duration::from_millis(retry.parse().context("RETRY-MS")?),
    };
    let started = Instant::now();
    loop {
        match get(host, timeout) {
            Ok(fetched) => {
                println!("{}", serde_json::to_string(&fetched)?);
                return Ok(());
            }
            Err(error) if started.elapsed() >= retry => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn get(host: &str, timeout: Duration) -> Result<Fetched> {
    let target = if host.parse::<SocketAddr>().is_ok() || host.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok()) {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let addresses: Vec<SocketAddr> = target.to_socket_addrs().with_context(|| format!("resolving {host}"))?.collect();
    let address = *addresses.first().with_context(|| format!("{host} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, timeout).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("reading from {address}"))?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("{address} answered no HTTP: {text:?}"))?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{address} answered {:?}", head.lines().next().unwrap_or_default());
    }
    Ok(Fetched { address: address.to_string(), body: body.to_owned(), at_micros: clock_micros() })
}

/// `lab-internal ask NAME`: asks the pod's own name server for the A records of exactly this name, and prints the return
/// code, `NOERROR` or `NXDOMAIN` or `SERVFAIL`.
pub(crate) fn ask(words: &[String]) -> Result<()> {
    let [name] = words else { bail!("ask NAME") };
    let resolv = std::fs::read_to_string("/etc/resolv.conf").context("reading /etc/resolv.conf")?;
    let server =
        resolv.lines().find_map(|line| line.strip_prefix("nameserver ")).context("/etc/resolv.conf names no server")?;
    let server: IpAddr = server.trim().parse().context("the name server's address")?;
    let any: IpAddr = if server.is_ipv6() { IpAddr::from([0u16; 8]) } else { IpAddr::from([0u8; 4]) };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect((server, 53))?;
    // RFC 1035 section 4.1: an identifier, recursion desired, one question of type A, class IN.
    let mut question = vec![0x1d, 0xa5, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        question
            .push(u8::try_from(label.len()).ok().filter(|n| *n < 64).with_context(|| format!("label {label:?} is too long"))?);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    socket.send(&question)?;
    let mut answer = [0u8; 4096];
    let length = socket.recv(&mut answer).with_context(|| format!("{server} does not answer"))?;
    if length < 12 || answer[..2] != question[..2] {
        bail!("{server} answers something else");
    }
    match answer[3] & 0x0f {
        0 => println!("NOERROR"),
        2 => println!("SERVFAIL"),
        3 => println!("NXDOMAIN"),
        5 => println!("REFUSED"),
        code => println!("RCODE{code}"),
    }
    Ok(())
}
