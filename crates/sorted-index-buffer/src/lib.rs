//! A sorted map from numbers that mostly follow each other, which gives its memory back.
//!
//! It stands in for the crate of the same name, in which noq (noq-proto 1.4, `PacketNumberSpace::sent_packets`) keeps the
//! packets that are on their way on a path, and whose memory never becomes less: one burst of data, and a connection
//! keeps megabytes for as long as it lives. Of that crate's interface it has what noq uses, under the same names.
//!
//! What follows each other lies in a ring, so that a number is found by its distance from the first one. A gap costs as
//! much memory as what would fill it.

use std::collections::{VecDeque, vec_deque};
use std::fmt;
use std::ops::{Bound, Range, RangeBounds};

/// With so many places or fewer nothing is given back. Connections that carry little would otherwise ask for memory and
/// give it back all the time.
const KEPT: usize = 64;

/// Memory is given back when less than one in so many places is in use, about half of it or more: what is moved for that
/// is little beside what has gone meanwhile.
const IN_USE: usize = 8;

/// Values by number, in the order of the numbers.
#[derive(Clone)]
pub struct SortedIndexBuffer<T> {
    /// The first and the last one are there, if there are any.
    slots: VecDeque<Option<T>>,
    /// The number of the first slot.
    first: u64,
}

impl<T> Default for SortedIndexBuffer<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for SortedIndexBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<T> SortedIndexBuffer<T> {
    /// An empty one, which takes no memory of its own.
    pub const fn new() -> Self {
        Self { slots: VecDeque::new(), first: 0 }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The slot of `index`, if there is one.
    fn slot(&self, index: u64) -> Option<usize> {
        let slot = usize::try_from(index.checked_sub(self.first)?).ok()?;
        (slot < self.slots.len()).then_some(slot)
    }

    /// The slots of the numbers in `range`.
    fn slots(&self, range: impl RangeBounds<u64>) -> Range<usize> {
        // Whether before the first slot or behind the last one makes no difference from there on.
        let at = |index: u64| {
            let slot = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
            slot.min(self.slots.len())
        };
        let behind = |index: u64| index.checked_add(1).map_or(self.slots.len(), at);
        let start = match range.start_bound() {
            Bound::Included(&index) => at(index),
            Bound::Excluded(&index) => behind(index),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&index) => behind(index),
            Bound::Excluded(&index) => at(index),
            Bound::Unbounded => self.slots.len(),
        };
        start..end.max(start)
    }

    /// What is at `index`.
    pub fn get(&self, index: u64) -> Option<&T> {
        self.slots[self.slot(index)?].as_ref()
    }

    /// The numbers in `range` under which there is something, and that.
    pub fn iter_range(
        &self,
        range: impl RangeBounds<u64>,
    ) -> impl DoubleEndedIterator<Item = (u64, &T)> {
        let slots = self.slots(range);
        // Too far only where the range has no slots.
        let first = self.first.wrapping_add(slots.start as u64);
        let slots = self.slots.range(slots).enumerate();
        slots.filter_map(move |(nth, slot)| Some((first + nth as u64, slot.as_ref()?)))
    }

    /// The numbers in `range` under which there is something.
    pub fn keys_range(&self, range: impl RangeBounds<u64>) -> impl DoubleEndedIterator<Item = u64> {
        self.iter_range(range).map(|(index, _)| index)
    }

    /// All there is, with its numbers.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &T)> {
        self.iter_range(..)
    }

    /// All there is.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.slots.iter().flatten()
    }

    /// All there is, to be changed.
    pub fn values_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> {
        self.slots.iter_mut().flatten()
    }

    /// Puts `value` at `index`, in the place of what was there.
    ///
    /// The time and the memory that this takes grow with the distance to the number that is nearest.
    pub fn insert(&mut self, index: u64, value: T) {
        if self.slots.is_empty() {
            self.first = index;
        }
        while index < self.first {
            self.slots.push_front(None);
            self.first -= 1;
        }
        while self.slot(index).is_none() {
            self.slots.push_back(None);
        }
        if let Some(slot) = self.slot(index) {
            self.slots[slot] = Some(value);
        }
    }

    /// Takes what is at `index`.
    pub fn remove(&mut self, index: u64) -> Option<T> {
        let slot = self.slot(index)?;
        let value = self.slots[slot].take();
        self.trim();
        value
    }

    /// Keeps what `keep` says.
    pub fn retain(&mut self, mut keep: impl FnMut(u64, &mut T) -> bool) {
        for (nth, slot) in self.slots.iter_mut().enumerate() {
            if slot.as_mut().is_some_and(|value| !keep(self.first + nth as u64, value)) {
                *slot = None;
            }
        }
        self.trim();
    }

    /// Gives up the slots at both ends that have become empty, and memory that is too much for the others.
    fn trim(&mut self) {
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            // Too far only where nothing is left to be numbered.
            self.first = self.first.wrapping_add(1);
        }
        while let Some(None) = self.slots.back() {
            self.slots.pop_back();
        }
        let places = self.slots.capacity();
        if places > KEPT && self.slots.len() < places / IN_USE {
            self.slots.shrink_to((self.slots.len() * IN_USE / 2).max(KEPT));
        }
    }
}

/// All of a [`SortedIndexBuffer`], with its numbers.
#[derive(Debug)]
pub struct IntoIter<T> {
    slots: vec_deque::IntoIter<Option<T>>,
    next: u64,
}

impl<T> Iterator for IntoIter<T> {
    type Item = (u64, T);

    fn next(&mut self) -> Option<(u64, T)> {
        loop {
            let slot = self.slots.next()?;
            let index = self.next;
            self.next = self.next.wrapping_add(1);
            if let Some(value) = slot {
                return Some((index, value));
            }
        }
    }
}

impl<T> IntoIterator for SortedIndexBuffer<T> {
    type Item = (u64, T);
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter { slots: self.slots.into_iter(), next: self.first }
    }
}

#[cfg(test)]
mod tests;
