//! Run by somebody else: what a supervisor hands over and wants to hear, and what is laid down once
//! the ports are bound.
//!
//! The protocols are systemd's, which podman, s6 and others speak too: sockets by `LISTEN_FDS`
//! ([`Inherited`]), a word about how it goes by `NOTIFY_SOCKET` ([`Supervisor`]), a sign of life that
//! is felt and not assumed ([`Pulse`]). [`drop_privileges`] is the last thing done while one thread is
//! all there is: credentials are a thread's, and every later one gets those of the first.
//!
//! Without any of it, nothing here does anything. What a purpose or a folder is for is others'
//! business; the environment is an argument.

mod inherited;
mod notify;
mod privileges;
mod pulse;

pub use inherited::{Inherited, Purpose};
pub use notify::Supervisor;
pub use privileges::{Error, User, check_user, drop_privileges, own_folder};
pub use pulse::{Heart, Pulse};
