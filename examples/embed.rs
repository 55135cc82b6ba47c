//! The proxy inside another program: settings as a user would type them, a port that the kernel
//! chooses, and an end when the program is done.
//!
//! `cargo run --example embed` prints the address and serves until it reads a line.

use std::collections::HashMap;

use goanyway::config::{Settings, Typed};
use goanyway::daemon;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flags = HashMap::from([
        ("listen", vec!["127.0.0.1:0".to_owned()]),
        ("admin.listen", vec!["none".to_owned()]),
        ("intercept.mode", vec!["off".to_owned()]),
    ]);
    let environment = |name: &str| std::env::var(name).ok();
    let typed = Typed::gather(&flags, &environment, None)?;
    let running = daemon::start(Settings::understand(&typed, &environment)?)?;

    println!("GOPROXY=http://{}", running.bound.listen[0]);
    println!("press Enter to stop");
    std::io::stdin().read_line(&mut String::new())?;
    let cut = running.stop();
    println!("stopped, {cut} connections cut");
    Ok(())
}
