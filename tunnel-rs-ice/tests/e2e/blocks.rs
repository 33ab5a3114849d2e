//! Blocks by files and pipes.

use std::net::SocketAddr;

use tunnel_testlab::process::Proc;

use crate::services::{ask, connect, shout, tcp_service};
use crate::side::{Pair, Side, client_line, connected, server_line, targets};
use crate::support::{
    Folder, SOON, TUNNEL_RS_ICE, TestResult, command, exit, on_loopback, tunnel_rs_ice, wait_file,
    wait_log,
};

/// Starts both sides with these files, and uses the forward.
fn works_by(offer: &str, answer: &str, server_first: bool) -> TestResult {
    let source = tcp_service(shout)?;
    let files = ["--offer-file", offer, "--answer-file", answer];
    let (client, server) = (client_line(&[&source], &files), server_line(&files));
    let start = |line: &[&str]| Proc::spawn(&mut tunnel_rs_ice(line));
    let (client, server) = if server_first {
        let server = start(&server)?;
        wait_log(&server, &["waiting for an offer in", offer], SOON)?;
        (start(&client)?, server)
    } else {
        let client = start(&client)?;
        targets(&client, 1)?;
        (client, start(&server)?)
    };
    connected(&client, &server)?;
    ask(&mut connect(targets(&client, 1)?[0])?, "hello")?;
    for process in [client, server] {
        let printed = process.stdout();
        assert!(!printed.contains("BEGIN"), "a block is on standard output, too: {printed}");
    }
    Ok(())
}

#[test]
fn blocks_pass_by_files_whoever_starts_first() -> TestResult {
    on_loopback(|| {
        for server_first in [true, false] {
            let folder = Folder::new()?;
            works_by(&folder.text("offer"), &folder.text("answer"), server_first)?;
            assert_eq!(folder.names()?, ["answer", "offer"], "something else was left behind");
        }
        Ok(())
    })
}

#[test]
fn a_file_appears_whole() -> TestResult {
    on_loopback(|| {
        let folder = Folder::new()?;
        let (offer, answer) = (folder.text("offer"), folder.text("answer"));
        let files = ["--offer-file", &offer, "--answer-file", &answer];
        let line = client_line(&["tcp://127.0.0.1:22"], &files);
        for _ in 0..10 {
            let client = Proc::spawn(&mut tunnel_rs_ice(&line))?;
            let seen = wait_file(&client, &folder.path("offer"), SOON)?;
            crate::side::offer(&seen)?;
            std::fs::remove_file(folder.path("offer"))?;
        }
        Ok(())
    })
}

#[test]
fn standard_input_and_output_have_names() -> TestResult {
    on_loopback(|| {
        let source = tcp_service(shout)?;
        for (input, output) in [("-", "-"), ("/dev/stdin", "/dev/stdout")] {
            let files = ["--offer-file", output, "--answer-file", input];
            let client = Side::client(&[&source], &files)?;
            let server = Side::server(&["--offer-file", input, "--answer-file", output])?;
            let pair = Pair::connect_with(client, server, 1)?;
            ask(&mut connect(pair.targets[0])?, "hello")?;
        }
        Ok(())
    })
}

#[test]
fn one_block_may_go_by_file_and_the_other_by_hand() -> TestResult {
    on_loopback(|| {
        let source = tcp_service(shout)?;
        let folder = Folder::new()?;
        let offer = folder.text("offer");
        let mut client = Side::client(&[&source], &["--offer-file", &offer])?;
        let server = Side::server(&["--offer-file", &offer])?;
        client.paste(&server.block()?)?;
        connected(&client.process, &server.process)?;
        ask(&mut connect(client.targets(1)?[0])?, "hello")
    })
}

#[test]
fn blocks_pass_through_fifos() -> TestResult {
    on_loopback(|| {
        let folder = Folder::new()?;
        let (offer, answer) = (folder.fifo("offer")?, folder.fifo("answer")?);
        for server_first in [true, false] {
            works_by(&offer, &answer, server_first)?;
        }
        Ok(())
    })
}

/// `client <back | server >back`, as two programs of a script are joined.
#[test]
fn two_pipes_are_enough() -> TestResult {
    on_loopback(|| {
        let source = tcp_service(shout)?;
        let folder = Folder::new()?;
        let back = folder.fifo("back")?;
        let forward = format!("4711:{}", source.trim_start_matches("tcp://"));
        let target = SocketAddr::from(([127, 0, 0, 1], 4711));
        let script = r#"
            "$0" client manual --no-stun -L "$1" <"$2" |
            "$0" server manual --no-stun --allowed-tcp 127.0.0.0/8 >"$2""#;
        let mut shell = command("sh");
        let both = Proc::spawn(shell.args(["-c", script, TUNNEL_RS_ICE, &forward, &back]))?;
        for role in ["server ", "client "] {
            wait_log(&both, &["session open", role], SOON)?;
        }
        ask(&mut connect(target)?, "hello")
    })
}

#[test]
fn a_file_that_cannot_be_written_is_named() -> TestResult {
    on_loopback(|| {
        let folder = Folder::new()?;
        let nowhere = folder.text("absent/offer");
        let (code, printed) =
            exit(&client_line(&["tcp://127.0.0.1:22"], &["--offer-file", &nowhere]))?;
        assert_eq!(code, 1, "{printed}");
        assert!(printed.contains(&nowhere), "{printed}");
        Ok(())
    })
}

#[test]
fn settings_may_come_from_files_and_the_environment() -> TestResult {
    on_loopback(|| {
        let source = tcp_service(shout)?;
        let folder = Folder::new()?;
        let (offer, answer) = (folder.text("offer"), folder.text("answer"));
        let blocks = format!("offer_file = \"{offer}\"\nanswer_file = \"{answer}\"\n");
        let config = folder.write(
            "server.toml",
            &format!(
                "role = \"server\"\nmode = \"manual\"\n[manual]\n{blocks}\
                 [manual.allowed_sources]\ntcp = [\"127.0.0.0/8\"]\n"
            ),
        )?;
        // The mode's word may be left out, and the file may be named behind it.
        let server = Proc::spawn(&mut tunnel_rs_ice(&["server", "-c", &config, "--no-stun"]))?;
        let config = folder.write(
            "client.toml",
            &format!(
                "[manual]\n{blocks}offer_ttl = 20\n[[manual.tunnels]]\nsource = \"tcp://h:1\"\n\
                 target = \"127.0.0.1:0\"\n"
            ),
        )?;
        let mut client = tunnel_rs_ice(&["client", "manual", "-c", &config, "--no-stun"]);
        client.env("TUNNEL_RS_SOURCE", &source).env("TUNNEL_RS_TARGET", "127.0.0.1:0");
        client.env("TUNNEL_RS_STUN_SERVER", "203.0.113.1:3478");
        let client = Proc::spawn(&mut client)?;
        connected(&client, &server)?;
        wait_log(&server, &["until the offer expires, for 20 s"], SOON)?;
        ask(&mut connect(targets(&client, 1)?[0])?, "hello")
    })
}

#[test]
fn the_usual_files_are_found_by_their_names() -> TestResult {
    on_loopback(|| {
        let home = Folder::new()?;
        let settings = home.path(".config/tunnel-rs");
        std::fs::create_dir_all(&settings)?;
        let blocks = "offer_file = \"~/offer\"\nanswer_file = \"~/answer\"\n";
        let section = format!("mode = \"manual\"\n[manual]\n{blocks}");
        let source = tcp_service(shout)?;
        let server = format!("{section}allowed_tcp = [\"127.0.0.0/8\"]\n");
        std::fs::write(settings.join("server_ice.toml"), server)?;
        let client = format!("{section}source = \"{source}\"\ntarget = \"127.0.0.1:0\"\n");
        std::fs::write(settings.join("client_ice.toml"), client)?;
        let start = |role: &str| {
            let mut command = tunnel_rs_ice(&[role, "--default-config", "--no-stun"]);
            Proc::spawn(command.env("HOME", home.text("")))
        };
        let (server, client) = (start("server")?, start("client")?);
        connected(&client, &server)?;
        ask(&mut connect(targets(&client, 1)?[0])?, "hello")
    })
}
