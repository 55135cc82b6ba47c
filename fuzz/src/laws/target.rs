//! A target has one spelling: what was parsed is written so that it parses to the same again, and
//! nothing in it is what another rule would have read differently.

use crate::target::{Host, Name, Target, unwrap_mapped};

pub fn hold(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(target) = Target::parse_connect(text) {
        assert_eq!(Target::parse_connect(&target.to_string()), Ok(target.clone()));
        hold_host(&target.host);
    }
    for port in [80, 443] {
        let Ok(target) = Target::parse_authority(text, port) else { continue };
        assert_eq!(Target::parse_authority(&target.authority(port), port), Ok(target.clone()));
        assert_eq!(Target::parse_connect(&target.to_string()), Ok(target));
    }
    if let Ok(host) = Host::parse(text) {
        hold_host(&host);
    }
    if let Ok(name) = Name::parse(text) {
        assert_eq!(Name::parse(name.as_str()), Ok(name.clone()));
        assert!(name.is_under(name.as_str()));
    }
}

fn hold_host(host: &Host) {
    assert_eq!(Host::parse(&host.to_string()).as_ref(), Ok(host));
    match host {
        Host::Addr(address) => assert_eq!(unwrap_mapped(*address), *address),
        Host::Name(name) => {
            let canonical = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
            assert!(name.as_str().bytes().all(canonical), "{name}");
            assert!(name.as_str().len() <= 253 && !name.as_str().ends_with('.'), "{name}");
        }
    }
}
