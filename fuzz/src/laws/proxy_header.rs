//! A PROXY header is read to its end and not a byte further, whatever follows it and however it comes in.

use crate::accept::announce::{LEAST, Progress, read};

pub fn hold(bytes: &[u8]) {
    let mut asked = LEAST;
    // As the reader of a connection does it: so many bytes as are certain, then again.
    while let Some(seen) = bytes.get(..asked) {
        match read(seen) {
            Ok(Progress::More(more)) => {
                assert!(more > 0, "nothing is asked for, for ever");
                asked += more;
            }
            Ok(Progress::Whole { client, length }) => {
                assert_eq!(length, asked, "every byte that was asked for is the header's");
                assert_eq!(read(bytes), Ok(Progress::Whole { client, length }), "what follows changes nothing");
                return;
            }
            Err(bad) => {
                assert_eq!(read(bytes), Err(bad), "what follows does not mend it");
                return;
            }
        }
        assert!(asked <= 4096, "it is bounded");
    }
}
