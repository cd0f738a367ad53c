//! The system calls: recvmmsg(2) and sendmmsg(2) with packet information (RFC 3542 section 6), which no safe wrapper offers whole.

#![expect(unsafe_code, reason = "system calls on structures that are built here and live through the call")]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use super::{Arrived, BATCH, Outgoing, SLOT, UdpSocket};

/// Room for the control messages of one datagram, aligned as they must be: packet information of either family, and some.
type Control = [u64; 12];
const CONTROL_LENGTH: usize = size_of::<Control>();

/// Opens a socket: of both families, or of IPv4 only.
pub(super) fn open(ipv6: bool) -> io::Result<OwnedFd> {
    let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: no memory is passed.
    let descriptor = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened, and is nobody else's.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    if ipv6 {
        set_option(&descriptor, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
        // Gives the address dialled for datagrams of both families, IPv4 ones mapped.
        set_option(&descriptor, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
    } else {
        set_option(&descriptor, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    }
    // Over a path narrower than the uplink, outer datagrams are fragmented rather than lost (design, decision 20): IPv4 ones
    // anywhere, so without "do not fragment"; IPv6 ones here, by what the kernel learns of the path.
    set_option(&descriptor, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
    Ok(descriptor)
}

pub(super) fn bind(descriptor: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let (name, length) = to_raw(address, address.is_ipv6());
    // SAFETY: the name is a socket address of at least that length.
    let done = unsafe { libc::bind(descriptor.as_raw_fd(), (&raw const name).cast(), length) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Asks for buffers of this size: past the system's limit with CAP_NET_ADMIN, up to it without.
pub(super) fn set_buffers(descriptor: &OwnedFd, bytes: i32) {
    for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if set_option(descriptor, libc::SOL_SOCKET, forced, bytes).is_err() {
            let _ = set_option(descriptor, libc::SOL_SOCKET, plain, bytes);
        }
    }
}

fn set_option(descriptor: &OwnedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = length_of::<i32>();
    // SAFETY: the value is an int that lives through the call, and the length is an int's.
    let done = unsafe { libc::setsockopt(descriptor.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives without waiting into the slots of `buffer`, which is [`BATCH`] slots long, and pushes what came. Datagrams that did
/// not fit their slot, or came from an address that is none, are left out.
pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8], arrived: &mut Vec<Arrived>) -> io::Result<usize> {
    // SAFETY: all of these are plain C structures, for which all zeros are a value.
    let (mut names, mut vectors, mut headers): ([libc::sockaddr_in6; BATCH], [libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
        unsafe { (zeroed(), zeroed(), zeroed()) };
    let mut controls: [Control; BATCH] = [[0; 12]; BATCH];
    let mut count = 0;
    let (slots, _) = buffer.as_chunks_mut::<SLOT>();
    let parts = slots.iter_mut().zip(&mut names).zip(&mut vectors).zip(&mut headers).zip(&mut controls);
    for ((((slot, name), vector), header), control) in parts {
        *vector = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT };
        header.msg_hdr.msg_name = (&raw mut *name).cast();
        header.msg_hdr.msg_namelen = length_of::<libc::sockaddr_in6>();
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = control.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = CONTROL_LENGTH as _;
        count += 1;
    }
    // SAFETY: the first `count` headers point to names, vectors, slots and controls that all live through the call.
    let received = unsafe {
        libc::recvmmsg(socket.descriptor.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT as _, ptr::null_mut())
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    for (slot, (header, name)) in headers.iter().zip(&names).take(received).enumerate() {
        let Some(remote) = from_raw(name) else { continue };
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            continue;
        }
        // SAFETY: the kernel filled the header's control messages, which lie in `controls`.
        let local = unsafe { local_address(&header.msg_hdr) };
        arrived.push(Arrived { slot, length: header.msg_len as usize, remote, local });
    }
    Ok(received)
}

/// Sends datagrams, at most [`BATCH`], and says in `sent` how many went; an error is that of the next one.
pub(super) fn send(socket: &UdpSocket, datagrams: &[Outgoing<'_>], sent: &mut usize) -> Option<io::Error> {
    // SAFETY: all of these are plain C structures, for which all zeros are a value.
    let (mut names, mut vectors, mut headers): ([libc::sockaddr_in6; BATCH], [libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
        unsafe { (zeroed(), zeroed(), zeroed()) };
    let mut controls: [Control; BATCH] = [[0; 12]; BATCH];
    let mut count = 0;
    let parts = datagrams.iter().zip(&mut names).zip(&mut vectors).zip(&mut headers).zip(&mut controls);
    for ((((outgoing, name), vector), header), control) in parts {
        if outgoing.remote.is_ipv6() && !socket.ipv6 {
            break;
        }
        let (raw, length) = to_raw(outgoing.remote, socket.ipv6);
        *name = raw;
        *vector = libc::iovec { iov_base: outgoing.datagram.as_ptr().cast_mut().cast(), iov_len: outgoing.datagram.len() };
        header.msg_hdr.msg_name = (&raw mut *name).cast();
        header.msg_hdr.msg_namelen = length;
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        if let Some(source) = outgoing.source {
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            // SAFETY: the control buffer is set, aligned, zeroed and long enough for packet information of either family.
            header.msg_hdr.msg_controllen = unsafe { put_source(&mut header.msg_hdr, source, socket.ipv6) } as _;
        }
        count += 1;
    }
    if count == 0 {
        return Some(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
    }
    // SAFETY: the first `count` headers point to names, vectors, datagrams and controls that all live through the call; the kernel
    // only reads the datagrams.
    let done = unsafe { libc::sendmmsg(socket.descriptor.as_raw_fd(), headers.as_mut_ptr(), count, 0) };
    match usize::try_from(done) {
        Ok(done) => {
            *sent = done;
            None
        }
        Err(_) => {
            *sent = 0;
            Some(io::Error::last_os_error())
        }
    }
}

/// The socket address as the kernel takes it, in a structure that holds either family's, and its length.
fn to_raw(address: SocketAddr, ipv6: bool) -> (libc::sockaddr_in6, u32) {
    // SAFETY: a plain C structure, for which all zeros are a value.
    let mut raw: libc::sockaddr_in6 = unsafe { zeroed() };
    match (address, ipv6) {
        (SocketAddr::V4(address), false) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: an IPv4 socket address is shorter than an IPv6 one, and both are plain bytes of the same alignment or less.
            unsafe { ptr::write((&raw mut raw).cast(), v4) };
            (raw, length_of::<libc::sockaddr_in>())
        }
        (SocketAddr::V4(address), true) => {
            raw.sin6_family = libc::AF_INET6 as _;
            raw.sin6_port = address.port().to_be();
            raw.sin6_addr.s6_addr = address.ip().to_ipv6_mapped().octets();
            (raw, length_of::<libc::sockaddr_in6>())
        }
        (SocketAddr::V6(address), _) => {
            raw.sin6_family = libc::AF_INET6 as _;
            raw.sin6_port = address.port().to_be();
            raw.sin6_addr.s6_addr = address.ip().octets();
            raw.sin6_scope_id = address.scope_id();
            (raw, length_of::<libc::sockaddr_in6>())
        }
    }
}

fn from_raw(raw: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match i32::from(raw.sin6_family) {
        libc::AF_INET => {
            // SAFETY: the family says that an IPv4 socket address is here; it is shorter, and plain bytes.
            let v4: libc::sockaddr_in = unsafe { ptr::read((&raw const *raw).cast()) };
            Some(SocketAddr::new(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into(), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            let address = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            Some(match address.to_ipv4_mapped() {
                Some(v4) => SocketAddr::new(v4.into(), port),
                None => SocketAddrV6::new(address, port, 0, raw.sin6_scope_id).into(),
            })
        }
        _ => None,
    }
}

/// Puts the source address into the header's control buffer, and returns the length of that.
///
/// # Safety
/// The header's control buffer is [`CONTROL_LENGTH`] zero bytes, aligned to 8.
unsafe fn put_source(header: &mut libc::msghdr, source: IpAddr, ipv6: bool) -> usize {
    header.msg_controllen = CONTROL_LENGTH as _;
    // SAFETY: the buffer is long enough for one control message of either size, by the caller's word; all writes stay inside it.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(header);
        if message.is_null() {
            return 0;
        }
        let mapped = match source {
            IpAddr::V4(address) if !ipv6 => {
                let mut info: libc::in_pktinfo = zeroed();
                info.ipi_spec_dst.s_addr = u32::from_ne_bytes(address.octets());
                (*message).cmsg_level = libc::IPPROTO_IP;
                (*message).cmsg_type = libc::IP_PKTINFO;
                (*message).cmsg_len = libc::CMSG_LEN(length_of::<libc::in_pktinfo>()) as _;
                ptr::write_unaligned(libc::CMSG_DATA(message).cast(), info);
                return libc::CMSG_SPACE(length_of::<libc::in_pktinfo>()) as usize;
            }
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut info: libc::in6_pktinfo = zeroed();
        info.ipi6_addr.s6_addr = mapped.octets();
        (*message).cmsg_level = libc::IPPROTO_IPV6;
        (*message).cmsg_type = libc::IPV6_PKTINFO;
        (*message).cmsg_len = libc::CMSG_LEN(length_of::<libc::in6_pktinfo>()) as _;
        ptr::write_unaligned(libc::CMSG_DATA(message).cast(), info);
        libc::CMSG_SPACE(length_of::<libc::in6_pktinfo>()) as usize
    }
}

/// The address that a datagram was sent to.
///
/// # Safety
/// The kernel filled the header's control messages, and their buffer still lives.
unsafe fn local_address(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the macros walk inside the control length that the kernel set; what is read is as long as the message's type says.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(found) = message.as_ref() {
            match (found.cmsg_level, found.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = ptr::read_unaligned(libc::CMSG_DATA(message).cast());
                    return Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = ptr::read_unaligned(libc::CMSG_DATA(message).cast());
                    return Some(IpAddr::from(Ipv6Addr::from(info.ipi6_addr.s6_addr)).to_canonical());
                }
                _ => message = libc::CMSG_NXTHDR(header, message),
            }
        }
        None
    }
}

fn length_of<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(0)
}
