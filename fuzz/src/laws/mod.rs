//! The laws, by name: the name of the file, and of the folder of its seeds.

mod base;
mod head;
mod hello;
mod module_path;
mod note;
mod proxy_header;
mod server;
mod target;
mod version;

/// Panics where the law is broken. Input that is refused breaks no law.
pub type Law = fn(&[u8]);

pub fn find(name: &str) -> Option<Law> {
    match name {
        "base" => Some(base::hold),
        "dns_reply" => Some(crate::resolve::dns_reply::hold),
        "head" => Some(head::hold),
        "hello" => Some(hello::hold),
        "ladder" => Some(crate::resolve::ladder_law::hold),
        "module_path" => Some(module_path::hold),
        "note" => Some(note::hold),
        "proxy_header" => Some(proxy_header::hold),
        "server" => Some(server::hold),
        "target" => Some(target::hold),
        "version" => Some(version::hold),
        _ => None,
    }
}
