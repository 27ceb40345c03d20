//! Ports on 127.0.0.1 that nobody listens on.
//!
//! Between the answer and its use another process can take a port, so who starts a server tries again when the
//! server ends early.

use std::net::TcpListener;

use anyhow::Result;

/// As many different free ports as are asked for.
///
/// # Errors
/// When the system has no free port.
pub fn free<const N: usize>() -> Result<[u16; N]> {
    // All are held until all are known, so that no two are the same.
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    #[test]
    fn ports_are_distinct() {
        let mut ports = super::free::<50>().unwrap();
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
