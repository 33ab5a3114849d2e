//! The commands that make and show keys and tokens.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Folder, TestResult, exit, text};

#[test]
fn a_key_is_written_for_its_owner_and_shown_by_its_id() -> TestResult {
    let folder = Folder::new()?;
    let path = folder.path("key");
    let (code, made) = exit(&["generate-server-key", "--output", text(&path)])?;
    assert_eq!(code, 0, "{made}");
    let id = made.trim().strip_prefix("EndpointId: ").unwrap();
    assert_eq!(id.len(), 64);
    assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    let key = std::fs::read_to_string(&path)?;
    assert!(key.ends_with('\n') && key.trim().len() == 44, "not base64 of 32 bytes on one line");
    let (code, shown) = exit(&["show-server-id", "--secret-file", text(&path)])?;
    assert_eq!((code, shown), (0, made.clone()));
    let (_, json) = exit(&["show-server-id", "--json", "--secret-file", text(&path)])?;
    assert_eq!(json.trim(), format!("{{\"endpoint_id\":\"{id}\"}}"));
    Ok(())
}

#[test]
fn an_existing_key_is_kept_without_force() -> TestResult {
    let folder = Folder::new()?;
    let path = folder.path("key");
    let (_, first) = exit(&["generate-server-key", "--output", text(&path)])?;
    let (code, refused) = exit(&["generate-server-key", "--output", text(&path)])?;
    assert_eq!(code, 1, "{refused}");
    assert!(refused.contains("--force"), "{refused}");
    assert_eq!(exit(&["show-server-id", "--secret-file", text(&path)])?.1, first);
    let (code, second) = exit(&["generate-server-key", "--force", "--output", text(&path)])?;
    assert_eq!(code, 0);
    assert_ne!(first, second);
    Ok(())
}

#[test]
fn tokens_are_made_in_any_number_and_are_valid() -> TestResult {
    let (code, printed) = exit(&["generate-token", "-c", "5"])?;
    assert_eq!(code, 0);
    let tokens: Vec<&str> = printed.lines().collect();
    assert_eq!(tokens.len(), 5);
    for token in tokens {
        token.parse::<tunnel_model::Token>()?;
    }
    Ok(())
}

#[test]
fn help_names_every_command_and_an_unknown_one_is_a_usage_error() -> TestResult {
    let (code, help) = exit(&["--help"])?;
    assert_eq!(code, 0);
    for command in [
        "server",
        "client",
        "relay",
        "generate-server-key",
        "show-server-id",
        "generate-token",
        "demo",
        "completions",
        "man-pages",
    ] {
        assert!(help.contains(command), "{command} is missing");
    }
    assert_eq!(exit(&["frobnicate"])?.0, 2);
    assert_eq!(exit(&[])?.0, 2);
    Ok(())
}
