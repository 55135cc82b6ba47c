//! What the user of a proxy URL says about trust: `ca-1a2b3c4d`, `ca`, `alice+ca-1a2b3c4d`, or nothing.
//!
//! The word is a promise made by the client, not proof of anything: all that it can cause is our
//! certificate in place of the origin's.

/// A client's word about the CA that it trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word<'a> {
    /// Nothing about a CA.
    Nothing,
    /// Whichever CA this proxy has.
    Ours,
    /// The CA of this fingerprint, eight hexadecimal digits of either case.
    Named(&'a str),
}

impl<'a> Word<'a> {
    /// Reads the user of a proxy URL.
    pub fn of(user: Option<&'a str>) -> Word<'a> {
        // A name of somebody stands before the last plus sign, if there is one.
        let said = user.unwrap_or("").rsplit('+').next().unwrap_or("");
        match said.strip_prefix("ca") {
            Some("") => Word::Ours,
            Some(rest) => {
                rest.strip_prefix('-').filter(|digits| is_fingerprint(digits)).map_or(Word::Nothing, Word::Named)
            }
            None => Word::Nothing,
        }
    }
}

fn is_fingerprint(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_a_proxy_url_says_which_ca_it_trusts() {
        let table = [
            (None, Word::Nothing),
            (Some(""), Word::Nothing),
            (Some("alice"), Word::Nothing),
            (Some("ca"), Word::Ours),
            (Some("ca-1a2b3c4d"), Word::Named("1a2b3c4d")),
            (Some("ca-1A2B3C4D"), Word::Named("1A2B3C4D")),
            (Some("alice+ca-1a2b3c4d"), Word::Named("1a2b3c4d")),
            (Some("a+b+ca"), Word::Ours),
            (Some("ca-1a2b3c4"), Word::Nothing),
            (Some("ca-1a2b3c4d5"), Word::Nothing),
            (Some("ca-team-lead"), Word::Nothing),
            (Some("cat"), Word::Nothing),
            (Some("ca-1a2b3c4d+alice"), Word::Nothing),
        ];
        for (user, word) in table {
            assert_eq!(Word::of(user), word, "{user:?}");
        }
    }
}
