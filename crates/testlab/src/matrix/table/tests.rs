use super::*;
use crate::{Error, matrix::Pair, nat::Nat};

fn run(outcome: Outcome, first_byte: u64, direct: Option<u64>) -> Result<Measured> {
    let first_byte = Some(Duration::from_millis(first_byte));
    Ok(Measured { outcome, first_byte, direct: direct.map(Duration::from_millis) })
}

fn row(pair: Pair, expected: Outcome, runs: Vec<Result<Measured>>) -> Row {
    Row { pair, expected, runs }
}

fn dual() -> Access {
    Access { nat: Nat::None, family: Family::Dual }
}

#[test]
fn a_table_has_rows_a_summary_and_grids() {
    let direct = Outcome::Direct;
    let rows = [
        row(
            Pair::new(Nat::None, Nat::None),
            direct,
            vec![run(direct, 30, Some(40)), run(direct, 10, Some(20)), run(direct, 20, Some(30))],
        ),
        row(
            Pair::new(Nat::None, Nat::Symmetric),
            Outcome::Relay,
            vec![run(Outcome::Relay, 100, None), run(direct, 100, Some(1500))],
        ),
        row(Pair::new(dual(), Nat::None), direct, vec![Err(Error::NotRoot)]),
    ];
    let expected = "\
| client | server | expected | outcome | first byte: median, max | direct: median, max |
| --- | --- | --- | --- | --- | --- |
| none | none | direct | direct | 0.02 s, 0.03 s | 0.03 s, 0.04 s |
| none | symmetric | relay | 1 × relay, 1 × **direct** | 0.10 s, 0.10 s | 1.50 s, 1.50 s |
| none, dual stack | none | direct | **error: the lab needs root, as it creates network namespaces: run \
these tests as root** | – | – |

1 of 3 pairs as expected, 6 runs. 95th percentile of the first byte: 0.10 s over 5 runs; of the time to a \
direct path: 1.50 s over 4 runs.

|  | none | symmetric |
| --- | --- | --- |
| none | D | **D/R** |
| symmetric |  |  |

|  | IPv4 | dual stack |
| --- | --- | --- |
| IPv4 | D |  |
| dual stack | **!** |  |
";
    assert_eq!(table(&rows), expected);
}

#[test]
fn a_matter_of_timing_may_come_out_both_ways() {
    let runs = vec![run(Outcome::Relay, 10, None), run(Outcome::Direct, 10, Some(20))];
    let row = row(Pair::new(Nat::Masquerade, Nat::Masquerade), Outcome::Either, runs);
    assert!(row.as_expected());
    assert_eq!(outcomes(&row), "1 × relay, 1 × direct");
    assert_eq!(cell(&row), "D/R");
}

#[test]
fn a_percentile_is_one_of_the_times() {
    let times: Vec<_> = (1..=20).map(Duration::from_secs).collect();
    assert_eq!(percentile(&times, 50), Some(Duration::from_secs(10)));
    assert_eq!(percentile(&times, 95), Some(Duration::from_secs(19)));
    assert_eq!(percentile(&times[..1], 95), Some(Duration::from_secs(1)));
    assert_eq!(percentile(&[], 95), None);
}
