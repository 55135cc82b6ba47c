//! Settings: what was typed, then what it means.
//!
//! [`Typed`] gathers text from flags, variables and a file by the one `table`; [`Settings`] gives
//! it meaning and is the sum of the rooms' own `Config`s. A complaint names the place, what stood
//! there and what was expected. The environment is an argument, so tests have one of their own.

mod check;
mod defaults;
mod folders;
mod settings;
mod show;
mod table;
mod typed;

pub use check::{Fault, find_faults};
pub use folders::config_file;
pub use settings::{Error, Folder, Log, Settings};
pub use show::{Shown, Value, show};
pub use table::{Many, ROWS, Row};
pub use typed::{Entry, Origin, Typed, did_you_mean, near, strangers};
