use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tunnel_cli::{Failure, Outcome, file, secret};
use tunnel_iroh::SecretKey;
use tunnel_model::Token;

use super::{print, print_json};

#[derive(Args, Debug)]
pub(crate) struct GenerateKeyArgs {
    /// Where to write the secret key: base64 on one line, readable by you alone
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ShowIdArgs {
    /// The file with the secret key
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct GenerateTokenArgs {
    /// How many
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn print_id(id: tunnel_iroh::EndpointId, as_json: bool) -> Outcome {
    if as_json {
        print_json(&json!({ "endpoint_id": id.to_string() }))
    } else {
        print(&format!("EndpointId: {id}"))
    }
}

pub(super) fn generate_key(args: &GenerateKeyArgs) -> Outcome {
    let key = SecretKey::generate();
    let mut line = key.to_base64();
    line.push('\n');
    secret::write(&file::expand(&args.output), &line, args.force).map_err(Failure::failed)?;
    print_id(key.id(), args.json)
}

pub(super) fn show_id(args: &ShowIdArgs) -> Outcome {
    let key = crate::config::read_secret_key(&args.secret_file)?;
    print_id(key.id(), args.json)
}

pub(super) fn generate_token(args: &GenerateTokenArgs) -> Outcome {
    let tokens: Result<Vec<Token>, _> = (0..args.count).map(|_| Token::generate()).collect();
    let tokens = tokens.map_err(|error| {
        Failure::Failed(format!("the operating system has no random numbers to give: {error}"))
    })?;
    if args.json {
        let tokens: Vec<_> = tokens.iter().map(Token::expose).collect();
        return print_json(&json!({ "tokens": tokens }));
    }
    tokens.iter().try_for_each(|token| print(token.expose()))
}
