use std::{process::Command, time::Duration};

use serde_json::Value;

use crate::{Error, Result, netns::Namespace, process::run};

/// For `ip`, which takes milliseconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(30);

/// How many bytes have left and reached a namespace so far, over all its interfaces but loopback.
pub fn carried(namespace: &Namespace) -> Result<u64> {
    let mut command = Command::new("ip");
    command.args(["-n", namespace.name(), "-s", "-j", "link", "show"]);
    let output = run(&mut command, LIMIT)?;
    let sum = sum(&output);
    sum.ok_or(Error::Malformed { what: "the list of interfaces that ip printed", text: output })
}

fn sum(output: &str) -> Option<u64> {
    let interfaces: Vec<Value> = serde_json::from_str(output).ok()?;
    let counted = interfaces.iter().filter(|interface| interface["ifname"] != "lo");
    let bytes = counted.flat_map(|interface| ["rx", "tx"].map(|way| &interface["stats64"][way]));
    bytes.map(|way| way["bytes"].as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::*;
    use crate::{enter::bind_udp, net::PairLab};

    #[test]
    fn what_a_host_sends_is_counted_at_both_ends() -> Result<()> {
        const PACKETS: u64 = 100;
        const SIZE: u64 = 1_000;
        let lab = PairLab::new()?;
        let (from, to) = (IpAddr::from(PairLab::A4), IpAddr::from(PairLab::B4));
        let socket = bind_udp(&lab.a, SocketAddr::new(from, 0))?;
        let target = bind_udp(&lab.b, SocketAddr::new(to, 0))?;
        let target = target.local_addr().map_err(Error::io("read an address"))?;
        let before = [carried(&lab.a)?, carried(&lab.b)?];
        for _ in 0..PACKETS {
            socket.send_to(&[0; SIZE as usize], target).map_err(Error::io("send a packet"))?;
        }
        for (host, before) in [&lab.a, &lab.b].into_iter().zip(before) {
            let bytes = carried(host)? - before;
            assert!((PACKETS * SIZE..2 * PACKETS * SIZE).contains(&bytes), "{bytes} bytes");
        }
        Ok(())
    }

    #[test]
    fn what_is_no_list_of_interfaces_is_none() {
        assert_eq!(sum("[]"), Some(0));
        for text in ["", "{}", r#"[{"ifname":"eth0"}]"#] {
            assert_eq!(sum(text), None, "{text:?}");
        }
    }
}
