//! `goanyway completions SHELL`: a script by which a shell completes our command line, from its one definition.

use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::Failure;
use super::output::print_bytes;

/// Print a script by which a shell completes this command line
#[derive(Args, Clone, Debug)]
pub(super) struct CompletionsArgs {
    /// Whose syntax to print
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn print(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    // Not by the generator itself, which would panic where it cannot write.
    print_bytes(&script(args.shell))
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
