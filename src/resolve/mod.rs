use crate::target::Name;
use std::net::IpAddr;
#[derive(Clone)]
pub struct Resolver;
impl Resolver {
    pub fn search(&self, _: &Name) -> Search {
        Search
    }
}
pub struct Search;
impl Search {
    pub async fn next(&mut self) -> Result<Found, Failure> {
        Err(Failure)
    }
    pub fn report(&mut self, _: IpAddr, _: Fate) {}
}
pub struct Found {
    pub addresses: Vec<IpAddr>,
    pub tier: Tier,
    pub server: String,
}
pub enum Tier {
    Static,
    System,
    Plain,
    Encrypted,
}
pub enum Fate {
    Connected,
    Verified,
    Unreachable,
    Distrusted,
}
#[derive(Clone, Debug, thiserror::Error)]
#[error("x")]
pub struct Failure;
impl Failure {
    pub fn is_silence(&self) -> bool {
        false
    }
}
