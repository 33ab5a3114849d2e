//! What holds for the workspace as a whole: which crate may use which, and under which licences.

#![expect(clippy::expect_used, reason = "a test that cannot see the workspace has failed")]

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Licences that go with MIT OR Apache-2.0 in a binary.
const LICENCES: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates under MPL-2.0, which asks only for the source of its own files and leaves the rest of a binary alone; iroh
/// brings them along.
const MPL: [&str; 1] = ["attohttpc"];

/// From the top to the bottom: a crate may use those further down and no others.
const ROOMS: [&[&str]; 5] = [
    // The latter is for noq alone.
    &["tunnel-testlab", "sorted-index-buffer"],
    &["tunnel-rs", "tunnel-rs-ice"],
    &["tunnel-cli", "tunnel-ice", "tunnel-iroh", "tunnel-relay", "tunnel-vpn"],
    &["tunnel-session"],
    &["tunnel-health", "tunnel-model"],
];

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Asked for when the test runs: a shared target folder may hold it from another checkout, with that one's paths.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the test");
    let output = Command::new(cargo)
        .current_dir(package)
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The names of the crates that each crate uses outside its tests.
fn used(metadata: &Value) -> BTreeMap<String, Vec<String>> {
    let normal = |d: &&Value| d["kind"].is_null();
    let names = |p: &Value| {
        list(p, "dependencies").iter().filter(normal).map(|d| text(d, "name").to_owned()).collect()
    };
    list(metadata, "packages").iter().map(|p| (text(p, "name").to_owned(), names(p))).collect()
}

#[test]
fn arrows_point_down() {
    let used = used(&metadata());
    let room = |name: &str| ROOMS.iter().position(|room| room.contains(&name));
    let mut arrows = 0;
    for (name, uses) in used.iter().filter(|(name, _)| room(name).is_some()) {
        for used in uses.iter().filter(|used| room(used).is_some()) {
            // The lab's relay is a program of its own.
            assert!(room(used) > room(name), "{name} uses {used}");
            arrows += 1;
        }
    }
    assert!(arrows > 5, "only {arrows} arrows were seen");
}

#[test]
fn the_model_is_pure_and_the_session_knows_no_transport() {
    let used = used(&metadata());
    let forbid = |name: &str, others: &[&str]| {
        for other in others {
            assert!(!used[name].iter().any(|used| used == other), "{name} uses {other}");
        }
    };
    forbid("tunnel-model", &["tokio", "tokio-util", "iroh", "tracing"]);
    forbid("tunnel-health", &["tunnel-model"]);
    forbid(
        "tunnel-session",
        &["tunnel-health", "iroh", "noq", "noq-proto", "quinn", "quinn-proto", "iroh-relay"],
    );
}

#[test]
fn every_dependency_has_a_licence_that_fits() {
    let metadata = metadata();
    let packages = list(&metadata, "packages");
    assert!(packages.len() > 100, "only {} packages were seen", packages.len());
    for package in packages {
        let (name, licence) = (text(package, "name"), text(package, "license"));
        let expression = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX)
            .unwrap_or_else(|error| panic!("{name}: {licence:?}: {error}"));
        let fits = expression.evaluate(|requirement| {
            let written = requirement.to_string();
            LICENCES.contains(&written.as_str()) || (written == "MPL-2.0" && MPL.contains(&name))
        });
        assert!(fits, "{name} is under {licence}");
    }
}
