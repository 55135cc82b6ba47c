//! What a client is answered in the two voices: to a CONNECT by the reason phrase, to all else by a text.

use goanyway::goproxy::{Complaint, Failure, ModuleRequest, Said};
use goanyway::respond::{Trouble, refuse, refuse_connect};
use goanyway::trace::Id;
use goanyway::{accept, admit, classify, connect, fetch, forward, resolve};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::ext::ReasonPhrase;

use super::samples::{unknown, unreachable};

const ID: Id = Id::of(0x7f3a);

/// Each trouble as both voices tell it, with the status and what machines read.
pub async fn all() -> String {
    let mut text = String::new();
    for trouble in troubles() {
        let connect = refuse_connect(&trouble, ID, "goanyway-1");
        let phrase = connect.extensions().get::<ReasonPhrase>().unwrap().as_bytes().to_vec();
        let answer = refuse(&trouble, ID, "goanyway-1");
        let status = answer.headers()["proxy-status"].to_str().unwrap().to_owned();
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let (phrase, body) = (String::from_utf8(phrase).unwrap(), String::from_utf8(body.to_vec()).unwrap());
        assert!(phrase.len() <= 160 && body.len() <= 648 && body.lines().count() <= 8, "{phrase} {body}");
        text += &format!("CONNECT: {code} {phrase}\nProxy-Status: {status}\n{body}\n");
    }
    text
}

fn troubles() -> Vec<Trouble> {
    let asked = |said: Said| Complaint { upstream: "proxy.example".to_owned(), said };
    let what = "example.com/m@v1.0.0 (zip)";
    let target = goanyway::target::Target::parse_connect("goproxy.cn:443").unwrap();
    vec![
        classify::Fault::Host.into(),
        classify::Fault::Method.into(),
        admit::Refusal::Port(25).into(),
        admit::Refusal::Credentials.into(),
        admit::Refusal::Login.into(),
        connect::Error::Unresolved(unknown()).into(),
        connect::Error::Unresolved(resolve::Failure::Blocked {
            name: "goproxy.cn".parse().unwrap(),
            server: "10.0.0.53".to_owned(),
            why: "Filtered".to_owned(),
        })
        .into(),
        unreachable(connect::Miss::Refused).into(),
        unreachable(connect::Miss::Silent).into(),
        connect::Error::Deadline { target }.into(),
        forward::Failure::Loop.into(),
        forward::Failure::Fetch(fetch::Error::Silent(std::time::Duration::from_secs(60))).into(),
        Trouble::Module(Failure::asked(what, vec![asked(Said::Silent("no answer within 10 s".to_owned()))])),
        Trouble::Module(Failure::asked(what, vec![asked(Said::Status(StatusCode::BAD_GATEWAY, String::new()))])),
        Trouble::Module(Failure::asked(
            what,
            vec![asked(Said::Wrong("its sum is h1:a=, and should be h1:b=".to_owned()))],
        )),
        Trouble::Module(Failure::asked(what, vec![asked(Said::Closed)])),
        ModuleRequest::parse("/favicon.ico").unwrap_err().into(),
        Trouble::Misdirected,
        Trouble::Foreign("cache.corp.example".parse().unwrap()),
        Trouble::Unwelcome(accept::Unwelcome::Crowd),
        Trouble::Unwelcome(accept::Unwelcome::Plain),
        Trouble::Left,
        Trouble::Absent("there is no CA here: interception is off"),
        Trouble::Method,
    ]
}
