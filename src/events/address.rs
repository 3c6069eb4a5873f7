//! Which addresses a webhook may go to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::Error;
use crate::peer::networks;

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(a: u16, b: u16, bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), bits)
}

/// What of IPv4 isn't the public internet, by IANA's registry of special-purpose addresses.
const FORBIDDEN_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),        // this host
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // carrier-grade NAT
    v4(127, 0, 0, 0, 8),      // loopback
    v4(168, 63, 129, 16, 32), // the host's own services, in Azure
    v4(169, 254, 0, 0, 16),   // link-local, where clouds keep their metadata
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // protocol assignments
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 88, 99, 0, 24),   // relays of 6to4
    v4(192, 168, 0, 0, 16),   // private
    v4(198, 18, 0, 0, 15),    // benchmarking
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved, broadcast
];

/// All of IPv6 that is public lies in here. Loopback, unspecified, unique local, link-local, site-local and multicast
/// addresses don't, nor those that embed an IPv4 address in the old way.
const PUBLIC_V6: Ipv6Net = v6(0x2000, 0, 3);

const FORBIDDEN_V6: [Ipv6Net; 3] = [
    v6(0x2001, 0, 23),     // protocol assignments; Teredo and benchmarking among them
    v6(0x2001, 0xdb8, 32), // documentation
    v6(0x3fff, 0, 20),     // documentation
];

const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 16);
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 96);

/// Whether `address` is on the public internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !FORBIDDEN_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => {
            let [_, _, a, b, c, d, .., y, z] = address.octets();
            let [.., w, x, _, _] = address.octets();
            if NAT64.contains(&address) {
                is_public(Ipv4Addr::new(w, x, y, z).into())
            } else if SIX_TO_FOUR.contains(&address) {
                is_public(Ipv4Addr::new(a, b, c, d).into())
            } else {
                PUBLIC_V6.contains(&address) && !FORBIDDEN_V6.iter().any(|network| network.contains(&address))
            }
        }
    }
}

/// The public internet, and the networks that the operator allows beside it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reachable {
    allowed: Vec<IpNet>,
}

impl Reachable {
    /// With networks such as `10.1.0.0/16`, or single addresses.
    ///
    /// # Errors
    ///
    /// [Config](Error::is_config) where one is neither.
    pub(crate) fn new(allowed: &[String]) -> Result<Self, Error> {
        let allowed = networks(allowed).map_err(|text| {
            Error::config(format!(
                "{text:?} is no network to allow webhooks to: write one such as 10.1.0.0/16 or fd00::/8"
            ))
        })?;
        Ok(Self { allowed })
    }

    /// Whether webhooks may go to `address`.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        // An IPv4 address that is written as IPv6 is reached over IPv4.
        let address = address.to_canonical();
        is_public(address) || self.allowed.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(allowed: &[&str], address: &str) -> bool {
        let allowed: Vec<_> = allowed.iter().map(|&network| network.into()).collect();
        Reachable::new(&allowed).unwrap().allows(address.parse().unwrap())
    }

    #[test]
    fn what_is_not_the_public_internet_is_forbidden() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "192.168.255.255",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            // Unspecified, loopback, and IPv4 addresses in the forms of IPv6.
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::10.0.0.1",
            "::8.8.8.8",
            "::ffff:0:10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::8.8.8.8",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2002:a9fe:a9fe::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            // Unique local, link-local, site-local, multicast, documentation, benchmarking, ORCHID, discard, segment routing.
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "feff::1",
            "ff02::1",
            "2001:db8::1",
            "3fff::1",
            "3fff:fff::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "100::1",
            "5f00::1",
            "4000::1",
        ] {
            assert!(!allows(&[], address), "{address}");
        }
    }

    #[test]
    fn the_public_internet_is_reachable() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "3fff:1000::1",
            "2a00::1",
        ] {
            assert!(allows(&[], address), "{address}");
        }
    }

    #[test]
    fn networks_that_are_allowed_are_reachable_and_no_others() {
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "127.0.0.1", "fd00::1"] {
            assert!(allows(&["10.1.0.0/16", "127.0.0.1", "fd00::/8"], address), "{address}");
        }
        for address in ["10.2.0.1", "127.0.0.2", "fc00::1", "64:ff9b::10.1.2.3", "2002:a01:203::"] {
            assert!(!allows(&["10.1.0.0/16", "127.0.0.1", "fd00::/8"], address), "{address}");
        }
        let error = Reachable::new(&["10.1.0.0/33".into()]).unwrap_err();
        assert!(error.is_config() && error.message().contains("10.1.0.0/16"), "{error}");
    }
}
