//! A Go program that looks a name up as go itself does, and prints what go would.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::binary::Ended;

/// Prints go's error, or the addresses that it would dial; what it looks up is what `go mod download`
/// would (`net.DefaultResolver`, without cgo).
const PROGRAM: &str = r#"package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

func main() {
	started := time.Now()
	addresses, err := net.DefaultResolver.LookupHost(context.Background(), os.Args[1])
	if err != nil {
		fmt.Println(err)
		return
	}
	seconds := int(time.Since(started).Seconds())
	fmt.Print("no error, dials ", strings.Join(addresses, ", "))
	if seconds > 0 {
		fmt.Printf(" after %d s", seconds)
	}
	fmt.Println()
}
"#;

/// Builds it in this folder.
pub fn build(folder: &Path) -> PathBuf {
    let at = |name: &str| folder.join(name);
    std::fs::write(at("main.go"), PROGRAM).unwrap();
    std::fs::write(at("go.mod"), "module oracle\n\ngo 1.20\n").unwrap();
    let mut go = Command::new("go");
    go.args(["build", "-o", "oracle", "."]).current_dir(folder).env("CGO_ENABLED", "0");
    go.env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local").env("GOENV", "off");
    let ended = Ended::of(go.output().unwrap());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    at("oracle")
}
