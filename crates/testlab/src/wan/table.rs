use std::{fmt::Write, iter};

use super::{Carrier, Figures, Item, Kernel, Kind, Link, Row, kind::arrow};
use crate::stream::Direction;

/// What stands where nothing was measured.
const NOTHING: &str = "–";

/// The rows as Markdown: for each link the rates of one stream alone, then the streams that share a link, and
/// the datagrams.
///
/// A figure is the median of the runs, with the least and the greatest behind it. A ratio is the median of
/// the ratios of each run.
pub fn table(rows: &[Row]) -> String {
    let table = Table { rows };
    let mut text = String::new();
    for link in Link::ALL {
        text += &table.alone(link);
    }
    text += &table.shared();
    text += &table.datagrams();
    text
}

struct Table<'a> {
    rows: &'a [Row],
}

impl Table<'_> {
    fn alone(&self, link: Link) -> String {
        let mut carriers: Vec<&Carrier> = Vec::new();
        for row in self.rows.iter().filter(|row| row.item.link == link) {
            if let Kind::Alone(carrier, _) = &row.item.kind
                && !carriers.contains(&carrier)
            {
                carriers.push(carrier);
            }
        }
        let bases = [
            Carrier::Raw(Kernel::Cubic),
            Carrier::Raw(Kernel::Bbr),
            Carrier::Tunnel(Some("cubic".to_owned())),
        ];
        let heading = [Direction::Up, Direction::Down].into_iter().flat_map(|way| {
            let ratios = bases.iter().map(|base| format!("/ {base}"));
            iter::once(format!("{}, Mbit/s", arrow(way))).chain(ratios)
        });
        let lines = carriers.into_iter().map(|carrier| {
            let cells = [Direction::Up, Direction::Down].into_iter().flat_map(|way| {
                let find = |carrier: &Carrier| self.find(link, &Kind::Alone(carrier.clone(), way));
                let row = find(carrier);
                let ratios = bases.iter().map(|base| ratio(row, find(base))).collect::<Vec<_>>();
                iter::once(figure(row, |run| Some(run.rate / 1e6), 1)).chain(ratios)
            });
            iter::once(carrier.to_string()).chain(cells).collect()
        });
        markdown(&format!("{link}"), iter::once(String::new()).chain(heading), lines)
    }

    fn shared(&self) -> String {
        let heading = ["link", "a -> b", "Mbit/s", "raw cubic beside, Mbit/s", "its share"];
        let lines = self.rows.iter().filter_map(|row| match &row.item.kind {
            Kind::Shared(carrier) => Some(vec![
                row.item.link.name.to_owned(),
                carrier.to_string(),
                figure(Some(row), |run| Some(run.rate / 1e6), 1),
                figure(Some(row), |run| run.beside.map(|rate| rate / 1e6), 1),
                figure(Some(row), |run| run.beside.map(|rate| rate / (rate + run.rate)), 2),
            ]),
            _ => None,
        });
        markdown("two streams that share the link", heading.map(str::to_owned), lines)
    }

    fn datagrams(&self) -> String {
        let heading = ["link", "through", "way", "Mbit/s", "lost, %", "stream beside, Mbit/s"];
        let lines = self.rows.iter().filter_map(|row| {
            let (carrier, way) = match &row.item.kind {
                Kind::Datagrams(carrier, way) => (carrier, *way),
                Kind::Mixed(carrier) => (carrier, Direction::Up),
                _ => return None,
            };
            let through = match carrier {
                Carrier::Raw(_) => "no tunnel".to_owned(),
                tunnel => tunnel.to_string(),
            };
            Some(vec![
                row.item.link.name.to_owned(),
                through,
                arrow(way).to_owned(),
                figure(Some(row), |run| Some(run.rate / 1e6), 1),
                figure(Some(row), |run| run.loss, 2),
                figure(Some(row), |run| run.beside.map(|rate| rate / 1e6), 1),
            ])
        });
        markdown("20 Mbit/s of UDP packets", heading.map(str::to_owned), lines)
    }

    fn find(&self, link: Link, kind: &Kind) -> Option<&Row> {
        self.rows.iter().find(|row| {
            let Item { link: on, kind: what } = &row.item;
            *on == link && what == kind
        })
    }
}

/// The median of what `pick` takes from the runs, the least and the greatest, and how many failed.
fn figure(row: Option<&Row>, pick: impl Fn(&Figures) -> Option<f64>, decimals: usize) -> String {
    let runs = row.map_or(&[][..], |row| &row.runs);
    let failed = runs.iter().filter(|run| run.is_err()).count();
    let picked = runs.iter().flatten().filter_map(pick);
    let mut text = spread(picked.collect(), decimals);
    if failed > 0 {
        let _ = write!(text, ", {failed} failed");
    }
    text
}

/// How much of the other row's rate this one has, run by run.
fn ratio(row: Option<&Row>, base: Option<&Row>) -> String {
    let (Some(row), Some(base)) = (row, base) else { return NOTHING.to_owned() };
    let pairs = row.runs.iter().zip(&base.runs);
    let ratios = pairs.filter_map(|(run, base)| match (run, base) {
        (Ok(run), Ok(base)) => Some(run.rate / base.rate),
        _ => None,
    });
    median(&sorted(ratios.collect())).map_or_else(|| NOTHING.to_owned(), |it| format!("{it:.2}"))
}

fn spread(values: Vec<f64>, decimals: usize) -> String {
    let sorted = sorted(values);
    match (sorted.first(), median(&sorted), sorted.last()) {
        (Some(least), Some(median), Some(greatest)) if sorted.len() > 1 => {
            format!("{median:.decimals$} ({least:.decimals$}–{greatest:.decimals$})")
        }
        (_, Some(median), _) => format!("{median:.decimals$}"),
        _ => NOTHING.to_owned(),
    }
}

fn sorted(values: Vec<f64>) -> Vec<f64> {
    // A rate of nothing beside a rate of nothing has no ratio.
    let mut values: Vec<_> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The middle one, or of an even number the mean of the two in the middle.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle)?;
    match sorted.get(middle.wrapping_sub(1)) {
        Some(lower) if sorted.len().is_multiple_of(2) => Some(f64::midpoint(*lower, *upper)),
        _ => Some(*upper),
    }
}

/// A table below its title; nothing where it has no lines.
fn markdown(
    title: &str,
    heading: impl IntoIterator<Item = String>,
    lines: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let heading: Vec<_> = heading.into_iter().collect();
    let rule = heading.iter().map(|_| "---".to_owned()).collect();
    let lines: Vec<_> = lines.into_iter().collect();
    if lines.is_empty() {
        return String::new();
    }
    let mut text = format!("{title}\n\n");
    for cells in [heading, rule].into_iter().chain(lines) {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
