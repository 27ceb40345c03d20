//! Addresses and names that are always refused, regardless of the flags.
//!
//! Input: an address or a host name.
//! Output: its description, if it is refused.
//! Invariants: an IPv4 address inside an IPv6 address (mapped, compatible, NAT64, 6to4) is judged
//! as that IPv4 address. Private and loopback addresses pass: the allowed hosts may list them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Instance metadata services outside the link-local range: Alibaba, Azure, Oracle.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// Instance metadata services over IPv6: Amazon, Google.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];
const METADATA_NAMES: [&str; 5] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
];

/// Describes the address if it is always refused.
pub(super) fn refused_address(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => refused_v4(v4),
        IpAddr::V6(v6) => refused_v6(v6).or_else(|| embedded_v4(v6).and_then(refused_v4)),
    }
}

/// Describes the name if it is always refused. `name` is in lower case.
pub(super) fn refused_name(name: &str) -> Option<&'static str> {
    METADATA_NAMES
        .contains(&name.trim_end_matches('.'))
        .then_some("an instance metadata service")
}

fn refused_v4(address: Ipv4Addr) -> Option<&'static str> {
    if address.is_link_local() {
        Some("a link-local address")
    } else if address.octets()[0] == 0 {
        Some("an unspecified address")
    } else if address.is_multicast() || address.is_broadcast() {
        Some("a multicast address")
    } else {
        METADATA_V4
            .contains(&address)
            .then_some("an instance metadata service")
    }
}

fn refused_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unicast_link_local() {
        Some("a link-local address")
    } else if address.is_unspecified() {
        Some("an unspecified address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else {
        METADATA_V6
            .contains(&address)
            .then_some("an instance metadata service")
    }
}

fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let from = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        // `::1` lies in the range of compatible addresses but embeds no IPv4 address.
        [0, 0, 0, 0, 0, 0, 0, 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(from(high, low))
        }
        [0x2002, high, low, ..] => Some(from(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_link_local_and_metadata_addresses_in_any_form() {
        for text in [
            "169.254.169.254",
            "169.254.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(refused_address(text.parse().unwrap()).is_some(), "{text}");
        }
    }

    #[test]
    fn leaves_other_addresses_to_the_allow_list() {
        for text in [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "8.8.8.8",
            "::1",
            "fd00::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(refused_address(text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn refuses_metadata_names_with_and_without_the_final_dot() {
        assert!(refused_name("metadata.google.internal").is_some());
        assert!(refused_name("metadata.google.internal.").is_some());
        assert_eq!(refused_name("metadata.example.com"), None);
    }
}
