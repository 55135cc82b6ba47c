//! A base has one spelling too, and its parts are what its text says.

use crate::target::Base;

pub fn hold(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(base) = Base::parse(text) else { return };
    assert_eq!(Base::parse(&base.to_string()), Ok(base.clone()));
    assert!(base.path.is_empty() || base.path.starts_with('/') && !base.path.ends_with('/'), "{base}");
    assert_eq!(base.to_string(), format!("{}://{}{}", base.scheme.as_str(), base.authority(), base.path));
}
