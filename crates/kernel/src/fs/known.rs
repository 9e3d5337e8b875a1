//! Objects that are found again as long as anybody uses them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// Below this many, what is dead is not worth a search.
const SWEEP_FROM: usize = 256;

/// It keeps nothing alive. What is dead is looked for whenever there are twice as many entries as had life in them the last
/// time, so that a search costs each new entry about one look, however many live on.
pub struct Known<K, T: ?Sized> {
    map: HashMap<K, Weak<T>>,
    sweep_at: usize,
}

impl<K, T: ?Sized> Default for Known<K, T> {
    fn default() -> Known<K, T> {
        Known { map: HashMap::new(), sweep_at: SWEEP_FROM }
    }
}

impl<K: Eq + Hash, T: ?Sized> Known<K, T> {
    pub fn get(&self, key: &K) -> Option<Arc<T>> {
        self.map.get(key).and_then(Weak::upgrade)
    }

    pub fn insert(&mut self, key: K, object: &Arc<T>) {
        if self.map.len() >= self.sweep_at {
            self.map.retain(|_, known| known.strong_count() > 0);
            self.sweep_at = (2 * self.map.len()).max(SWEEP_FROM);
        }
        self.map.insert(key, Arc::downgrade(object));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_are_rare_whatever_lives() {
        for alive in [0, 255, 256, 257, 8191, 8192, 8193] {
            let mut known = Known::default();
            let objects: Vec<_> = (0..alive).map(Arc::new).collect();
            objects.iter().for_each(|object| known.insert(**object, object));
            let (mut searches, mut before) = (0, known.sweep_at);
            for key in alive..alive + 20_000 {
                let length = known.map.len();
                known.insert(key, &Arc::new(key));
                searches += usize::from(known.map.len() <= length || known.sweep_at != before);
                before = known.sweep_at;
            }
            assert!(searches <= 20_000 / SWEEP_FROM.max(alive / 2) + 1, "{searches} for {alive}");
            assert!(known.map.len() <= 2 * alive.max(SWEEP_FROM) + 1);
            assert!(objects.iter().all(|object| known.get(object).is_some()));
        }
    }
}
