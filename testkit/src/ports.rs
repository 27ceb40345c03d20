//! Free ports on 127.0.0.1.
//!
//! Input: none.
//! Output: a port that was free.
//! Invariants: another process may take the port before its use, so a caller that starts a server
//! retries if the server exits early.

use std::net::TcpListener;

use anyhow::Result;

/// Returns `N` different free ports.
///
/// # Errors
/// If the system has no free port.
pub fn free<const N: usize>() -> Result<[u16; N]> {
    // All listeners stay open until all ports are known, so that the ports differ.
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
