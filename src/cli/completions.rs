//! `goanyway completions SHELL`: a script by which a shell completes our command line, from its one definition.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

/// Print a script by which a shell completes this command line
#[derive(Args, Clone, Debug)]
pub(super) struct CompletionsArgs {
    /// Whose syntax to print
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn print(args: &CompletionsArgs) -> ExitCode {
    // A reader that has seen enough is no error, and the generator would panic.
    let _ = std::io::stdout().write_all(&script(args.shell));
    ExitCode::SUCCESS
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "goanyway", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_is_told_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell] {
            let script = String::from_utf8(script(shell)).unwrap();
            for command in super::super::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
            assert!(script.contains("cache-dir") && script.contains("keep-root"), "{shell}");
        }
    }
}
