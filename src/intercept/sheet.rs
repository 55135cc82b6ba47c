//! What a CA certificate says about itself: subject, dates, key, and the names that it is good for.

use std::time::{Duration, SystemTime};

use x509_parser::extensions::{GeneralName, GeneralSubtree, NameConstraints};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::target::Name;

/// The facts of one certificate.
pub(super) struct Sheet {
    pub subject: String,
    pub begins: SystemTime,
    pub ends: SystemTime,
    pub public_key: Vec<u8>,
    /// Empty where names are not constrained, as a root's may be.
    pub permitted: Vec<String>,
    excluded: Vec<String>,
}

impl Sheet {
    /// Reads a certificate, or says what it lacks.
    pub(super) fn read(der: &[u8]) -> Result<Sheet, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|why| format!("not a certificate ({why})"))?;
        if !certificate.is_ca() {
            return Err("wanted the certificate of a CA, and it is none".to_owned());
        }
        let constraints =
            certificate.name_constraints().map_err(|why| format!("unreadable name constraints ({why})"))?;
        let constraints = constraints.map(|extension| extension.value);
        Ok(Sheet {
            subject: certificate.subject().to_string(),
            begins: to_time(certificate.validity().not_before)?,
            ends: to_time(certificate.validity().not_after)?,
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
            permitted: constraints.map_or_else(Vec::new, |value| names(value, |value| &value.permitted_subtrees)),
            excluded: constraints.map_or_else(Vec::new, |value| names(value, |value| &value.excluded_subtrees)),
        })
    }

    /// Whether its constraints let it speak for this host.
    pub(super) fn permits(&self, host: &Name) -> bool {
        let within = |subtrees: &[String]| subtrees.iter().any(|subtree| is_within(host, subtree));
        (self.permitted.is_empty() || within(&self.permitted)) && !within(&self.excluded)
    }
}

/// A leading dot is not in RFC 5280, and widely taken to mean what is beneath alone.
fn is_within(host: &Name, subtree: &str) -> bool {
    match subtree.strip_prefix('.') {
        Some(base) => host.as_str() != base && host.is_under(base),
        None => subtree.is_empty() || host.is_under(subtree),
    }
}

fn names<'a>(
    constraints: &'a NameConstraints<'a>,
    subtrees: impl Fn(&'a NameConstraints<'a>) -> &'a Option<Vec<GeneralSubtree<'a>>>,
) -> Vec<String> {
    subtrees(constraints).iter().flatten().filter_map(name_of).collect()
}

fn name_of(subtree: &GeneralSubtree<'_>) -> Option<String> {
    match subtree.base {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    }
}

fn to_time(time: ASN1Time) -> Result<SystemTime, String> {
    let seconds = u64::try_from(time.timestamp()).map_err(|_| format!("dated before 1970 ({time})"))?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}
