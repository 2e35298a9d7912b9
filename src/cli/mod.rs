//! The command line: arguments, progress, printing; the work is done by the library.

mod bench;
mod chat;
mod classify;
mod conversation;
mod device;
mod devices;
mod evaluate;
mod generate;
mod input;
mod inspect;
mod interrupt;
mod logits;
mod merge;
mod model;
mod perplexity;
mod prompt;
mod pull;
mod sampling;
mod summarize;
mod tokenize;

use std::{
    io::{self, ErrorKind::BrokenPipe, IsTerminal, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use mistral_wgpu::{Error, ErrorKind, generate::Finish};

/// Mistral 7B on any GPU: complete, chat, summarize and classify text.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.\n\
        Every subcommand shows examples with --help."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// Tell on stderr what happens; twice for more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    Generate(generate::Args),
    Chat(chat::Args),
    Summarize(summarize::Args),
    Classify(classify::Args),
    Perplexity(perplexity::Args),
    Evaluate(evaluate::Args),
    Logits(logits::Args),
    Merge(merge::Args),
    Tokenize(tokenize::Args),
    Detokenize(tokenize::DecodeArgs),
    Devices(devices::Args),
    Inspect(inspect::Args),
    Pull(pull::Args),
    Bench(bench::Args),
}

/// Why a subcommand ended early.
#[derive(Debug)]
enum Failure {
    /// Something went wrong.
    Error(Error),
    /// Standard output could not be written.
    Output(io::Error),
    /// The user pressed Ctrl-C.
    Interrupted,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Output(error.into())
    }
}

/// What a subcommand returns.
type Outcome = Result<(), Failure>;

/// An error of usage.
fn usage(subject: &str, message: impl std::fmt::Display) -> Failure {
    Error::new(ErrorKind::Argument, subject, message).into()
}

/// Prints a JSON value on a line.
fn print(value: &serde_json::Value) -> Outcome {
    Ok(writeln!(io::stdout(), "{value}")?)
}

/// How an answer ended, as JSON output says it.
fn finish_name(finish: Option<Finish>) -> &'static str {
    match finish {
        Some(Finish::Stop) => "stop",
        Some(Finish::Length) => "length",
        None => "interrupted",
    }
}

/// Parses the arguments, runs the subcommand and reports how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    trace(cli.verbose);
    let outcome = match cli.command {
        Command::Generate(args) => generate::run(&args, cli.json),
        Command::Chat(args) => chat::run(&args, cli.json),
        Command::Summarize(args) => summarize::run(&args, cli.json),
        Command::Classify(args) => classify::run(&args, cli.json),
        Command::Perplexity(args) => perplexity::run(&args, cli.json),
        Command::Evaluate(args) => evaluate::run(&args, cli.json),
        Command::Logits(args) => logits::run(&args, cli.json),
        Command::Merge(args) => merge::run(&args, cli.json),
        Command::Tokenize(args) => tokenize::run(&args, cli.json),
        Command::Detokenize(args) => tokenize::run_decode(&args, cli.json),
        Command::Devices(args) => devices::run(&args, cli.json),
        Command::Inspect(args) => inspect::run(&args, cli.json),
        Command::Pull(args) => pull::run(&args, cli.json),
        Command::Bench(args) => bench::run(&args, cli.json),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(Failure::Output(error)) if error.kind() == BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Output(error)) => {
            eprintln!("error: standard output: {error}");
            ExitCode::FAILURE
        }
        Err(Failure::Error(error)) => {
            eprintln!("error: {error}");
            ExitCode::from(if error.kind() == ErrorKind::Argument { 2 } else { 1 })
        }
        Err(Failure::Interrupted) => ExitCode::from(130),
    }
}

/// Sends what the library reports to stderr.
fn trace(verbose: u8) {
    let filter = match verbose {
        0 => "off,mistral_wgpu=warn,mistral=warn",
        1 => "warn,mistral_wgpu=debug,mistral=debug",
        _ => "info,mistral_wgpu=trace,mistral=trace",
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .without_time()
        .init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_declaration_is_sound() {
        Cli::command().debug_assert();
    }

    /// Names of subcommands and options, plausible and implausible values.
    fn word() -> impl Strategy<Value = String> {
        let mut known: Vec<String> =
            ["-", "--", "-n", "-p", "-vv", "0", "-1", "1,2", "8GiB", "5=0.5", "q4_0", "f16"]
                .map(str::to_owned)
                .into();
        for command in Cli::command().get_subcommands() {
            known.push(command.get_name().to_owned());
            known.extend(command.get_arguments().filter_map(|arg| Some(format!("--{}", arg.get_long()?))));
        }
        prop_oneof![3 => prop::sample::select(known), 1 => any::<String>(), 1 => "[-0-9.,=eE+a-zA-Z]{0,12}"]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_arguments_make_it_panic(words in prop::collection::vec(word(), 0..8)) {
            let _ = Cli::try_parse_from(["mistral".to_owned()].into_iter().chain(words));
        }
    }
}
