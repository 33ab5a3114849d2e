use super::*;
use crate::{Error, Result};

fn row(kind: Kind, runs: &[Option<Figures>]) -> Row {
    let failed = || Error::NoUplink { host: "a".to_owned() };
    let runs = runs.iter().map(|run| run.ok_or_else(failed)).collect::<Vec<Result<_>>>();
    Row { item: Item { link: Link::ALL[0], kind }, runs }
}

fn rate(mbit: f64) -> Option<Figures> {
    Some(Figures { rate: mbit * 1e6, ..Figures::default() })
}

#[test]
fn ratios_are_taken_run_by_run() {
    let up = |carrier| Kind::Alone(carrier, Direction::Up);
    let rows = [
        row(up(Carrier::Raw(Kernel::Cubic)), &[rate(10.0), rate(100.0), rate(20.0)]),
        row(up(Carrier::Raw(Kernel::Bbr)), &[]),
        row(up(Carrier::Tunnel(None)), &[rate(9.0), rate(50.0), None]),
    ];
    let text = table(&rows);
    let lines: Vec<_> = text.lines().skip(2).collect();
    assert_eq!(
        lines,
        [
            "|  | a -> b, Mbit/s | / raw cubic | / raw bbr | / tunnel cubic \
             | b -> a, Mbit/s | / raw cubic | / raw bbr | / tunnel cubic |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            "| raw cubic | 20.0 (10.0–100.0) | 1.00 | – | – | – | – | – | – |",
            "| raw bbr | – | – | – | – | – | – | – | – |",
            "| tunnel default | 29.5 (9.0–50.0), 1 failed | 0.70 | – | – | – | – | – | – |",
            "",
        ]
    );
}

#[test]
fn a_share_is_that_of_the_other_stream() {
    let figures = Figures { rate: 75e6, beside: Some(25e6), loss: None };
    let text = table(&[row(Kind::Shared(Carrier::Tunnel(None)), &[Some(figures)])]);
    assert!(text.contains("| clean | tunnel default | 75.0 | 25.0 | 0.25 |"), "{text}");
}

#[test]
fn datagrams_have_a_loss() {
    let figures = Figures { rate: 20e6, beside: None, loss: Some(0.13) };
    let kind = Kind::Datagrams(Carrier::Raw(Kernel::Cubic), Direction::Down);
    let text = table(&[row(kind, &[Some(figures)])]);
    assert!(text.contains("| clean | no tunnel | b -> a | 20.0 | 0.13 | – |"), "{text}");
}

#[test]
fn medians_are_in_the_middle() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[1.0]), Some(1.0));
    assert_eq!(median(&[1.0, 4.0]), Some(2.5));
    assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
}
