//! What of a list is enough for something to go wrong.

/// The smallest part of `all`, in its order, that still fails: nothing of it can be left out
/// alone. `fails` is asked of parts that lack a half first, then a quarter, and so on.
pub(super) fn smallest<T: Clone>(all: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut least = all.to_vec();
    let mut size = least.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let before = least.len();
        while at < least.len() {
            let end = (at + size).min(least.len());
            let rest = [&least[..at], &least[end..]].concat();
            if fails(&rest) {
                least = rest;
            } else {
                at = end;
            }
        }
        // What was needed beside something else may not be without it.
        size = if size == 1 && least.len() < before { 1 } else { size / 2 };
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_together_is_left() {
        let all: Vec<_> = (0..20).collect();
        let fails = |part: &[i32]| part.contains(&3) && part.contains(&17);
        assert_eq!(smallest(&all, fails), [3, 17]);
    }

    #[test]
    fn what_fails_by_itself_needs_nothing() {
        assert_eq!(smallest(&[1, 2, 3], |_| true), [0; 0]);
    }

    #[test]
    fn what_needs_all_keeps_all() {
        assert_eq!(smallest(&[1, 2, 3], |part| part.len() == 3), [1, 2, 3]);
    }

    #[test]
    fn what_can_be_left_out_only_after_another_is_left_out() {
        // 1 is needed as long as 2 is there.
        let fails = |part: &[i32]| part.contains(&3) && (part.contains(&1) || !part.contains(&2));
        assert_eq!(smallest(&[1, 2, 3], fails), [3]);
    }
}
