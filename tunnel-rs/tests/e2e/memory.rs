//! Memory that flows took, after their end.

use std::io::{Read, Write};

use tunnel_testlab::process::Proc;

use crate::support::{
    Folder, SOON, TestResult, ask, connect, own_network, serving, shouting_service, started,
    tunnel_rs,
};

const FLOWS: usize = 1000;
const FLOW_BYTES: usize = 64 * 1024;

/// As many as a server has on 16 cores: what a thread frees is then often another one's.
const THREADS: &str = "8";

/// A relay that nobody answers at, so that nothing else is looked for, which takes memory as well.
const ALONE: [&str; 2] = ["--relay-url", "http://127.0.0.1:9"];

/// KiB of memory in which a process is resident, and the most that there ever was.
fn memory(process: &Proc) -> TestResult<[u64; 2]> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let number = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()).unwrap_or_default().parse()
    };
    Ok([number("VmRSS:")?, number("VmHWM:")?])
}

#[test]
fn the_memory_of_ended_flows_is_given_back() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let token = folder.path("token");
    let server = serving(
        tunnel_rs(&["server", "--allowed-tcp", "127.0.0.0/8", "--auth-tokens-file"])
            .arg(&token)
            .args(ALONE)
            .env("TOKIO_WORKER_THREADS", THREADS)
            .env("RUST_LOG", "warn"),
    )?;
    let client = started(
        tunnel_rs(&["client", "--ticket", &server.ticket, "--source", &shouting_service()?])
            .args(["--target", "127.0.0.1:0", "--auth-token-file"])
            .arg(&token)
            .args(ALONE)
            .env("TOKIO_WORKER_THREADS", THREADS)
            .env("RUST_LOG", "warn"),
        1,
    )?;
    let ends = [&server.process, &client.process];
    let before = ends.map(memory);

    let mut flows = Vec::new();
    for _ in 0..FLOWS {
        let mut tcp = connect(client.targets[0])?;
        // The service's queue is shorter than that of the client.
        ask(&mut tcp, "hello")?;
        flows.push(tcp);
    }
    for tcp in &mut flows {
        tcp.write_all(&[b'a'; FLOW_BYTES])?;
    }
    let mut answer = vec![0; FLOW_BYTES];
    for tcp in &mut flows {
        tcp.read_exact(&mut answer)?;
        assert!(answer.iter().all(|byte| *byte == b'A'));
    }
    drop(flows);

    for (end, before) in ends.into_iter().zip(before) {
        let [before, _] = before?;
        let [_, most] = memory(end)?;
        let enough = before + (most - before) / 4;
        end.wait_for(|| (memory(end).ok()?[0] <= enough).then_some(()), 2 * SOON)?;
    }
    Ok(())
}
