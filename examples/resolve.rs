//! Resolves one name through the ladder, tries the addresses in order, and prints why.
//!
//!     cargo run --example resolve -- goproxy.cn

use goanyway::metrics::Registry;
use goanyway::resolve::{Config, Fate, Inquiry, Resolver};
use goanyway::target::Name;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name: Name = std::env::args().nth(1).ok_or("usage: resolve NAME")?.parse()?;
    let resolver = Resolver::new(Config::default(), tokio::runtime::Handle::current(), &Registry::default())?;
    println!("{}", resolver.describe());

    // As a request does: take addresses, and tell how they fared, until one does or none is left.
    let mut search = resolver.search(&name);
    'search: loop {
        let found = search.next().await?;
        for address in found.addresses {
            match tokio::net::TcpStream::connect((address, 443)).await {
                Ok(_) => {
                    println!("{name} is {address}, heard from the {:?} tier", found.tier);
                    search.report(address, Fate::Connected);
                    break 'search;
                }
                Err(error) => {
                    println!("{address}: {error}");
                    search.report(address, Fate::Unreachable);
                }
            }
        }
    }

    let explanation = resolver.explain(&name, &Inquiry::default()).await;
    print!("{}", goanyway::cli::render_explanation(&explanation));
    Ok(())
}
