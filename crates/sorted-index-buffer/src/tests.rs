use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u32),
    Remove(u64),
    RetainEven,
    Clear,
}

/// Numbers as a connection has them: most follow the ones before, and some are left out.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let first = prop_oneof![0..10_u64, Just(u64::MAX - 299)];
    first.prop_flat_map(|first| {
        let index = (0..300_u64).prop_map(move |n| first + n);
        let step = prop_oneof![
            6 => (index.clone(), any::<u32>()).prop_map(|(at, value)| Step::Insert(at, value)),
            6 => index.prop_map(Step::Remove),
            1 => Just(Step::RetainEven),
            1 => Just(Step::Clear),
        ];
        prop::collection::vec(step, 0..200)
    })
}

fn bound() -> impl Strategy<Value = Bound<u64>> {
    let index = prop_oneof![0..320_u64, Just(u64::MAX), u64::MAX - 320..u64::MAX];
    prop_oneof![
        index.clone().prop_map(Bound::Included),
        index.prop_map(Bound::Excluded),
        Just(Bound::Unbounded),
    ]
}

/// What a map has in the range, which it would panic at where that is none.
fn in_range(map: &BTreeMap<u64, u32>, range: (Bound<u64>, Bound<u64>)) -> Vec<(u64, u32)> {
    map.iter().filter(|(index, _)| range.contains(index)).map(|(&n, &v)| (n, v)).collect()
}

proptest! {
    #[test]
    fn it_has_what_a_map_has(steps in steps(), range in (bound(), bound())) {
        let mut buffer = SortedIndexBuffer::new();
        let mut map = BTreeMap::new();
        for step in steps {
            match step {
                Step::Insert(index, value) => {
                    buffer.insert(index, value);
                    map.insert(index, value);
                }
                Step::Remove(index) => prop_assert_eq!(buffer.remove(index), map.remove(&index)),
                Step::RetainEven => {
                    buffer.retain(|index, value| (index ^ u64::from(*value)) % 2 == 0);
                    map.retain(|index, value| (index ^ u64::from(*value)) % 2 == 0);
                }
                Step::Clear => {
                    buffer.retain(|_, _| false);
                    map.clear();
                }
            }
            let all: Vec<_> = map.iter().map(|(&index, &value)| (index, value)).collect();
            prop_assert_eq!(buffer.iter().map(|(n, &v)| (n, v)).collect::<Vec<_>>(), all.clone());
            let mut backwards: Vec<_> = buffer.iter().rev().map(|(n, &v)| (n, v)).collect();
            backwards.reverse();
            prop_assert_eq!(backwards, all.clone());
            prop_assert_eq!(buffer.is_empty(), map.is_empty());
            prop_assert!(buffer.slots.front().is_none_or(Option::is_some));
            prop_assert!(buffer.slots.back().is_none_or(Option::is_some));
            prop_assert!(buffer.values().eq(map.values()));
            let expected = in_range(&map, range);
            let part: Vec<_> = buffer.iter_range(range).map(|(n, &v)| (n, v)).collect();
            prop_assert_eq!(&part, &expected);
            let mut last_first: Vec<_> = buffer.keys_range(range).rev().collect();
            last_first.reverse();
            prop_assert_eq!(last_first, expected.iter().map(|(n, _)| *n).collect::<Vec<_>>());
            for index in [0, 5, 299, u64::MAX - 1, u64::MAX] {
                prop_assert_eq!(buffer.get(index), map.get(&index));
            }
            prop_assert_eq!(buffer.clone().into_iter().collect::<Vec<_>>(), all);
        }
        for value in buffer.values_mut() {
            *value = value.wrapping_add(1);
        }
        let changed: Vec<_> = map.values().map(|value| value.wrapping_add(1)).collect();
        prop_assert_eq!(buffer.values().copied().collect::<Vec<_>>(), changed);
    }
}

#[test]
fn what_a_burst_took_is_given_back() {
    let mut buffer = SortedIndexBuffer::new();
    for index in 0..10_000_u64 {
        buffer.insert(index, [index; 8]);
    }
    assert!(buffer.slots.capacity() >= 10_000);
    // As acknowledgements come: most in order, every tenth a little late.
    for index in 0..10_000_u64 {
        if index % 10 != 0 {
            assert_eq!(buffer.remove(index), Some([index; 8]));
        }
        if index >= 50 && index % 10 == 0 {
            assert_eq!(buffer.remove(index - 50), Some([index - 50; 8]));
        }
    }
    buffer.retain(|_, _| false);
    assert!(buffer.slots.capacity() <= KEPT, "{}", buffer.slots.capacity());
}

#[test]
fn a_steady_stream_asks_for_no_memory() {
    let mut buffer = SortedIndexBuffer::new();
    let mut acknowledged = 0;
    let mut places = None;
    for sent in 0..20_000_u64 {
        buffer.insert(sent, sent);
        // On their way are a thousand, or a seventh of that.
        let least = if sent % 1_500 < 750 { 1_000 } else { 150 };
        while sent >= acknowledged + least {
            assert_eq!(buffer.remove(acknowledged), Some(acknowledged));
            acknowledged += 1;
        }
        if sent > 1_000 {
            assert_eq!(buffer.slots.capacity(), *places.get_or_insert(buffer.slots.capacity()));
        }
    }
}

#[test]
fn an_empty_one_takes_nothing_and_begins_anywhere() {
    let mut buffer = SortedIndexBuffer::<u32>::default();
    assert_eq!(buffer.slots.capacity(), 0);
    assert_eq!((buffer.remove(0), buffer.is_empty()), (None, true));
    assert_eq!(buffer.get(0), None);
    buffer.insert(1 << 60, 1);
    assert_eq!(format!("{buffer:?}"), "{1152921504606846976: 1}");
    assert_eq!(buffer.remove(1 << 60), Some(1));
    buffer.insert(3, 2);
    assert_eq!(buffer.iter().collect::<Vec<_>>(), [(3, &2)]);
}
