//! A relay that has nothing in common with this program.

use tunnel_testlab::{nat::Nat, stream::settled};

use super::stage::Stage;
use crate::support::{TestResult, alone, finished};

#[test]
fn a_relay_of_others_making_carries_the_signaling() -> TestResult {
    let _alone = alone();
    let mut stage = Stage::new(Nat::PortRestricted, Nat::PortRestricted, &[])?;
    let _relay = stage.add_python_relay()?;
    let key = stage.config.key()?;
    // The events of the first client are still there when the second one subscribes, and when the server does again.
    for name in ["relay in Python, first client", "relay in Python, second client"] {
        let _server = stage.server(&[&key], &[])?;
        let client = stage.connect(name, &key)?;
        let stream = stage.stream(&client)?;
        settled(&stream)?;
        finished(stream)?;
    }
    Ok(())
}
