use std::{fmt::Display, time::Duration};

use super::{Measured, Row};
use crate::{
    Result,
    nat::{Access, Family, Outcome},
};

/// The rows as Markdown: each pair with its times, what all of them come to, and grids of the outcomes.
///
/// A column of the grids is a server, a row a client. **D**, **R** and **I** are direct, relay and impossible;
/// `D/R` came out both ways, which only a pair that is a matter of timing may; a cell in bold, or with an `!`
/// for an error, is not as expected.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    text.push_str("| client | server | expected | outcome | first byte: median, max | direct: median, max |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for row in rows {
        let cells = [
            row.pair.client.to_string(),
            row.pair.server.to_string(),
            outcome(row.expected).to_owned(),
            outcomes(row),
            median_and_max(times(row, |run| run.first_byte)),
            median_and_max(times(row, |run| run.direct)),
        ];
        push_row(&mut text, cells);
    }
    text.push('\n');
    text.push_str(&summary(rows));
    let (v4, families): (Vec<_>, Vec<_>) =
        rows.iter().partition(|row| family(row) == (Family::V4, Family::V4));
    // The pair that belongs to both grids is among the ones of IPv4.
    let shared = v4.iter().copied().filter(|row| {
        families.iter().any(|other| other.pair.client.nat == row.pair.client.nat)
            && families.iter().any(|other| other.pair.server.nat == row.pair.server.nat)
    });
    let families: Vec<_> = shared.chain(families.iter().copied()).collect();
    text.push_str(&grid(&v4, |access| access.nat));
    if families.iter().any(|row| family(row) != (Family::V4, Family::V4)) {
        text.push_str(&grid(&families, |access| access.family));
    }
    text
}

fn family(row: &Row) -> (Family, Family) {
    (row.pair.client.family, row.pair.server.family)
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Direct => "direct",
        Outcome::Relay => "relay",
        Outcome::Impossible => "impossible",
        Outcome::Either => "either",
    }
}

/// `direct`, where all runs agree, otherwise each with its number; what is not as expected is bold.
fn outcomes(row: &Row) -> String {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for run in &row.runs {
        let word = match run {
            Ok(measured) => outcome(measured.outcome).to_owned(),
            Err(error) => format!("error: {}", first_line(error)),
        };
        let word = if row.agrees(run) { word } else { format!("**{word}**") };
        match counted.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += 1,
            None => counted.push((word, 1)),
        }
    }
    match counted.as_slice() {
        [] => "**not run**".to_owned(),
        [(word, _)] => word.clone(),
        several => {
            let words: Vec<_> =
                several.iter().map(|(word, count)| format!("{count} × {word}")).collect();
            words.join(", ")
        }
    }
}

/// What fits into a cell.
fn first_line(error: &impl Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().replace('|', "/")
}

fn times(row: &Row, pick: impl Fn(&Measured) -> Option<Duration>) -> Vec<Duration> {
    let mut times: Vec<_> = row.runs.iter().flatten().filter_map(pick).collect();
    times.sort();
    times
}

/// The smallest of the sorted times that at least `percent` of them do not exceed (the nearest rank).
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

fn median_and_max(sorted: Vec<Duration>) -> String {
    match (percentile(&sorted, 50), sorted.last()) {
        (Some(median), Some(max)) => format!("{}, {}", seconds(median), seconds(*max)),
        _ => "–".to_owned(),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn summary(rows: &[Row]) -> String {
    let expected = rows.iter().filter(|row| row.as_expected()).count();
    let runs: usize = rows.iter().map(|row| row.runs.len()).sum();
    let all = |pick: fn(&Measured) -> Option<Duration>| {
        let mut times: Vec<_> = rows.iter().flat_map(|row| times(row, pick)).collect();
        times.sort();
        match percentile(&times, 95) {
            Some(time) => format!("{} over {} runs", seconds(time), times.len()),
            None => "none".to_owned(),
        }
    };
    format!(
        "{expected} of {} pairs as expected, {runs} runs. 95th percentile of the first byte: {}; of the \
         time to a direct path: {}.\n",
        rows.len(),
        all(|run| run.first_byte),
        all(|run| run.direct),
    )
}

/// A cell for each pair, over the values of `key` that occur.
fn grid<K: PartialEq + Display>(rows: &[&Row], key: impl Fn(Access) -> K) -> String {
    let mut keys: Vec<K> = Vec::new();
    for access in rows.iter().flat_map(|row| [row.pair.client, row.pair.server]) {
        if !keys.contains(&key(access)) {
            keys.push(key(access));
        }
    }
    if keys.is_empty() {
        return String::new();
    }
    let mut text = "\n".to_owned();
    let heading = keys.iter().map(ToString::to_string);
    push_row(&mut text, [String::new()].into_iter().chain(heading));
    push_row(&mut text, (0..=keys.len()).map(|_| "---".to_owned()));
    for client in &keys {
        let cells = keys.iter().map(|server| {
            let mut rows = rows.iter();
            let row =
                rows.find(|row| key(row.pair.client) == *client && key(row.pair.server) == *server);
            row.map_or_else(String::new, |row| cell(row))
        });
        push_row(&mut text, [client.to_string()].into_iter().chain(cells));
    }
    text
}

fn cell(row: &Row) -> String {
    let letter = |run: &Result<Measured>| match run {
        Ok(Measured { outcome: Outcome::Direct, .. }) => 'D',
        Ok(Measured { outcome: Outcome::Relay, .. }) => 'R',
        Ok(Measured { outcome: Outcome::Impossible, .. }) => 'I',
        Ok(Measured { outcome: Outcome::Either, .. }) => 'E',
        Err(_) => '!',
    };
    let mut letters: Vec<_> = row.runs.iter().map(letter).collect();
    letters.sort_unstable();
    letters.dedup();
    let letters: Vec<_> = letters.into_iter().map(String::from).collect();
    let letters = letters.join("/");
    if row.as_expected() { letters } else { format!("**{letters}**") }
}

fn push_row(text: &mut String, cells: impl IntoIterator<Item = String>) {
    text.push('|');
    for cell in cells {
        text.push(' ');
        text.push_str(&cell);
        text.push_str(" |");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests;
