//! What may fail once.

use std::result::Result;

/// Tries until something is good, three times at the most; what was not good, if all were not. A machine that stands still for a
/// moment loses packets by itself.
pub fn one_of_three<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_good: impl Fn(&T) -> bool,
) -> Result<Option<Vec<T>>, E> {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let came = attempt()?;
        if is_good(&came) {
            return Ok(None);
        }
        seen.push(came);
    }
    Ok(Some(seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_good_attempt_is_enough_and_three_are_made() {
        let from = |values: [u8; 3]| {
            let mut values = values.into_iter();
            one_of_three(|| values.next().ok_or(()), |value| *value > 5)
        };
        assert_eq!(from([1, 2, 9]), Ok(None));
        assert_eq!(from([9, 1, 1]), Ok(None));
        assert_eq!(from([1, 2, 3]), Ok(Some(vec![1, 2, 3])));
        assert_eq!(one_of_three(|| Err::<u8, _>("lost"), |_| true), Err("lost"));
    }
}
