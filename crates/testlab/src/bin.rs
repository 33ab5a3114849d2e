//! The workspace's own programs, for tests of other packages than theirs.

use std::{env, path::PathBuf};

use crate::{Error, Result};

/// Finds the program `name` of this package beside the running test.
///
/// Cargo tells a test the paths of its own package's programs only, so this one is looked for where cargo
/// puts it: in the folder above the `deps` that the test executable stands in.
pub fn path(name: &str) -> Result<PathBuf> {
    let test = env::current_exe().map_err(Error::io("find the path of the running test"))?;
    let mut folder = test.parent().map(PathBuf::from).unwrap_or_default();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let path = folder.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => String::new(),
        Some(profile) => format!(" --profile {profile}"),
    };
    let build = format!("cargo build --package tunnel-testlab --bin {name}{profile}");
    Err(Error::NotBuilt { path, build })
}
